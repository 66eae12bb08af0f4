"""What the workers of a batch do in tests: a bundle in no time, or one of the ways to fail."""

import os
import signal
import time
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper

from bundle import store
from bundle.golden import TOLERANCE, Golden
from bundle.manifest import Folding, Input, Manifest, Parity, ParityCase, Source
from export.errors import ExportError
from export.jobs import FreezeJob

PARAMETERS, FOLDED, MACS = 1234, 1200, 5_000_000


def freeze(job: FreezeJob) -> Path:
    """A bundle that depends on network and weights alone, after what the job's name asks for."""
    if job.model == "bad":
        raise ExportError("<b>these</b> weights are bad")
    if job.model == "broken":
        raise ZeroDivisionError("a fault of ours")
    if job.model == "killed":
        (job.repository / "half").mkdir(parents=True)
        os.kill(os.getpid(), signal.SIGKILL)
    if job.model == "stuck" and os.environ.get("MULTICROP_TEST_STUCK"):
        print("stuck", flush=True)
        time.sleep(60)  # ended by the death of the batch
        print("survived", flush=True)
    return write(job)


def write(job: FreezeJob) -> Path:
    node = helper.make_node("BatchNormalization", ["images", "s", "b", "m", "v"], ["logits"])  # counted, never run
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1]) for name in ("images", "logits")]
    graph = helper.make_graph([node], "little", values[:1], values[1:])
    manifest = Manifest(
        architecture=job.network or "",
        classes=2,
        input=Input(height=1, width=1, channels=1, dynamic=False, resize=1),
        parameters=PARAMETERS,
        folded_parameters=FOLDED,
        macs=MACS,
        source=Source(kind="random", name=job.weights or ""),
        folding=Folding(layers=0, folded_error=0, unfolded_error=0),
        parity=Parity(
            tolerance=2e-5,
            cases=tuple(
                ParityCase(batch=1, height=1, width=1, max_abs=0, max_rel=error, top1_agreement=1)
                for error in (1e-6, 3e-6, 2e-6)
            ),
        ),
        files={},
    )
    golden = Golden(np.zeros((1, 1, 1, 1), np.uint8), np.ones((1, 2), np.float32), dict(TOLERANCE))
    files = {
        store.MODEL: helper.make_model(graph).SerializeToString(),
        store.LABELS: b"0\n1\n",
        store.GOLDEN: golden.to_bytes(),
    }
    return store.write_bundle(job.repository, job.model, manifest, files, job.version)
