"""`make demo`: train LeNet-5 on real digits, serve it, and ask it over HTTP."""

import argparse
import contextlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

from bundle import store
from bundle.labelled import png
from export.data import digits

ADDRESS = "http://127.0.0.1:8000"
MODEL = "lenet5"
IMAGES = 8
PLANS = ("center", "ten_crop")


def main() -> int:
    """Exit status 0 when every answer came."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repository", type=Path, default=Path("models"), help="folder of the bundles")
    parser.add_argument("--once", action="store_true", help="end after the table")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the server ends with us
    if not store.versions(options.repository, MODEL):
        command = ["-m", "export", "train", MODEL, "--data", "digits", "--repository", str(options.repository)]
        subprocess.run([sys.executable, *command], check=True)
    if is_taken():
        print(f"something else answers on {ADDRESS}; end it first", file=sys.stderr)
        return 1
    with serve(options.repository) as server, httpx.Client(base_url=ADDRESS, timeout=30) as client:
        if not wait_until_ready(server, client):
            return 1
        complete = ask(client)
        if not options.once:
            print(f"\nServing on {ADDRESS} (API: {ADDRESS}/docs). Ctrl-C ends it. Try:")
            print(f"  curl --data-binary @docs/digit.png '{ADDRESS}/v1/models/{MODEL}:classify?views=ten_crop'")
            with contextlib.suppress(KeyboardInterrupt):
                server.wait()
    return 0 if complete else 1


@contextlib.contextmanager
def serve(repository: Path) -> Iterator[subprocess.Popen[bytes]]:
    host, port = ADDRESS.removeprefix("http://").split(":")
    options = ["--repository", str(repository), "--host", host, "--port", port, "--drain-delay", "0"]
    server = subprocess.Popen([sys.executable, "-m", "service", "run", *options])
    try:
        yield server
    finally:
        server.terminate()
        server.wait()


def is_taken() -> bool:
    host, port = ADDRESS.removeprefix("http://").split(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


def wait_until_ready(server: subprocess.Popen[bytes], client: httpx.Client) -> bool:
    while server.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            if client.get("/readyz").status_code == httpx.codes.OK:
                return server.poll() is None
        time.sleep(0.05)
    return False


def ask(client: httpx.Client) -> bool:
    """Sends the first digits of the test part with each plan and prints the answers; whether all came."""
    test = digits().test
    print(f"\n{'image':<9}{'truth':<7}{'views':<10}{'answer':<8}{'probability':<13}ms")
    complete = True
    for number in range(IMAGES):
        for plan in PLANS:
            answer = client.post(
                f"/v1/models/{MODEL}:classify", params={"views": plan, "top_k": 1}, content=png(test.images[number])
            )
            row = f"test {number:<4}{test.classes[number]:<7}{plan:<10}"
            if answer.status_code == httpx.codes.OK:
                best, milliseconds = answer.json()["predictions"][0], answer.json()["timings_ms"]["total"]
                print(f"{row}{best['label']:<8}{best['probability']:<13.4f}{milliseconds:.1f}")
            else:
                complete = False
                print(f"{row}no answer: {answer.text}")
    return complete


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
