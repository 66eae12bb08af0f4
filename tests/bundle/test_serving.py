"""What an operator writes, right and wrong."""

from pathlib import Path

import pytest

from bundle.errors import BundleError
from bundle.serving import EnsembleFile, Member, Serving, read_ensemble, read_serving


def serving(folder: Path, content: str) -> Serving:
    (folder / "serving.toml").write_text(content)
    return read_serving(folder)


def ensemble(folder: Path, content: str) -> EnsembleFile:
    (folder / "ensemble.toml").write_text(content)
    return read_ensemble(folder)


def test_without_a_file_nothing_is_wished(tmp_path: Path) -> None:
    assert read_serving(tmp_path) == serving(tmp_path, "") == Serving()
    found = Serving()
    assert (found.versions, found.views, found.average, found.stop) == ("all", "center", None, "never")


def test_every_wish_is_read(tmp_path: Path) -> None:
    content = 'versions = [1, 3]\nviews = "ten_crop"\naverage = "logits"\nstop = "confident:0.9"\n'
    assert serving(tmp_path, content) == Serving(
        versions=(1, 3), views="ten_crop", average="logits", stop="confident:0.9"
    )
    assert serving(tmp_path, 'versions = "latest"').versions == "latest"


def test_every_wish_of_the_engine_is_read(tmp_path: Path) -> None:
    content = 'devices = ["cuda:0", "cuda:1"]\ninstances = 2\nbuckets = [1, 8, 1024]\nmax_queue_size = 100\n'
    more = 'plans = ["center", "flips"]\ntimeout_ms = 500\npriority = -1\n'
    assert serving(tmp_path, content + more) == Serving(
        devices=("cuda:0", "cuda:1"),
        instances=2,
        buckets=(1, 8, 1024),
        max_queue_size=100,
        plans=("center", "flips"),
        timeout_ms=500,
        priority=-1,
    )
    assert serving(tmp_path, 'devices = ["cpu"]').devices == ("cpu",)
    assert serving(tmp_path, 'devices = "auto"') == Serving()


DEVICES = 'is neither "auto" nor ["cpu"] nor a list of GPUs such as ["cuda:0"]'
BUCKETS = "are no batch sizes; list them ascending, from 1 to 1024"


VERSIONS = 'is neither "all" nor "latest" nor a list of versions such as [1, 3]'


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('versions = "some"', f"versions: 'some' {VERSIONS}"),
        ("versions = []", f"versions: [] {VERSIONS}"),
        ("versions = 3", f"versions: 3 {VERSIONS}"),
        ("versions = [0]", f"versions: [0] {VERSIONS}"),
        ("versions = [1.5]", f"versions: [1.5] {VERSIONS}"),
        ("versions = [1000000000]", f"versions: [1000000000] {VERSIONS}"),
        ("views = 10", "views: Input should be a valid string, not 10"),
        ('average = "max"', "average: Input should be 'probabilities' or 'logits', not 'max'"),
        ('stop = "soon"', "stop: stop is never, exact, confident, or confident:P with P above 0 and at most 1"),
        ("stop = true", "stop: Input should be a valid string, not True"),
        (
            'average = "logits"\nstop = "exact"',
            'stop = "exact" holds for average = "probabilities" alone; leave one of them out',
        ),
        ("view = 'center'", "view: there is no such key"),
        (f"versions = {list(range(1, 102))}", "versions: 101 versions are listed, at most 100 are loaded; list fewer"),
        ('devices = "cuda"', f"devices: 'cuda' {DEVICES}"),
        ("devices = []", f"devices: [] {DEVICES}"),
        ('devices = ["cpu", "cuda:0"]', f"devices: ['cpu', 'cuda:0'] {DEVICES}"),
        ('devices = ["cuda:00"]', f"devices: ['cuda:00'] {DEVICES}"),
        ("devices = [0]", f"devices: [0] {DEVICES}"),
        (
            'devices = ["cuda:0", "cuda:0"]',
            "devices: ['cuda:0', 'cuda:0'] names a device twice; set instances for several sessions on each",
        ),
        ("instances = 0", "instances: Input should be greater than or equal to 1, not 0"),
        ("instances = 257", "instances: Input should be less than or equal to 256, not 257"),
        ("buckets = []", f"buckets: [] {BUCKETS}"),
        ("buckets = [0, 1]", f"buckets: [0, 1] {BUCKETS}"),
        ("buckets = [4, 2]", f"buckets: [4, 2] {BUCKETS}"),
        ("buckets = [2, 2]", f"buckets: [2, 2] {BUCKETS}"),
        ("buckets = [1025]", f"buckets: [1025] {BUCKETS}"),
        ("max_queue_size = 0", "max_queue_size: Input should be greater than or equal to 1, not 0"),
        ("timeout_ms = 0", "timeout_ms: Input should be greater than or equal to 1, not 0"),
        ("priority = 2", "priority: Input should be less than or equal to 1, not 2"),
        ("plans = []", "plans: give one at least"),
        ('plans = "center"', "plans: write a list: [...], or tables whose name stands in double brackets, [[...]]"),
        (
            'plans = ["flips", "ten_crop"]',
            "views = 'center' is not among plans (flips, ten_crop); add it, or choose one",
        ),
    ],
)
def test_a_wrong_wish_is_refused_by_its_place(tmp_path: Path, content: str, said: str) -> None:
    with pytest.raises(BundleError) as caught:
        serving(tmp_path, content)
    assert str(caught.value) == f"serving.toml: {said}"


def test_what_is_no_toml_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"^serving\.toml is no TOML file in UTF-8: "):
        serving(tmp_path, "views = center")


MEMBERS = '[[members]]\nmodel = "a"\n{}\n[[members]]\nmodel = "b"\n{}\n'


def test_members_weigh_the_same_unless_they_say(tmp_path: Path) -> None:
    found = ensemble(tmp_path, MEMBERS.format("", "") + '[[members]]\nmodel = "a"\n')
    assert found.weights == [1 / 3] * 3
    assert found.members[0] == Member(model="a", version=None, weight=None, views=None)
    assert not found.partial


def test_every_key_of_an_ensemble_is_read(tmp_path: Path) -> None:
    content = "partial = true\n" + MEMBERS.format('weight = 0.25\nversion = 2\nviews = "ten_crop"', "weight = 0.75")
    found = ensemble(tmp_path, content)
    assert found.members[0] == Member(model="a", version=2, weight=0.25, views="ten_crop")
    assert (found.weights, found.partial) == ([0.25, 0.75], True)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "members: it is missing"),
        ("members = []", "members: give one at least"),
        ("[members]", "members: write a list: [...], or tables whose name stands in double brackets, [[...]]"),
        ("[[members]]", "members.0.model: it is missing"),
        (MEMBERS.format("weight = 0.5", ""), "some members have a weight; give each one, or none"),
        (
            MEMBERS.format("weight = 0.5", "weight = 0.4"),
            "the members' weights sum to 0.9; divide each by that, so that they sum to 1",
        ),
        (
            MEMBERS.format("weight = 0.5", "weight = 0.500002"),
            "the members' weights sum to 1.000002; divide each by that, so that they sum to 1",
        ),
        (MEMBERS.format("", "weight = 0"), "members.1.weight: Input should be greater than 0, not 0"),
        (MEMBERS.format("weight = inf", ""), "members.0.weight: Input should be a finite number, not inf"),
        (MEMBERS.format("version = 0", ""), "members.0.version: Input should be greater than or equal to 1, not 0"),
        (MEMBERS.format("plan = 'center'", ""), "members.0.plan: there is no such key"),
        (
            "partial = 2\n" + MEMBERS.format("", ""),
            "partial: Input should be a valid boolean, unable to interpret input, not 2",
        ),
    ],
)
def test_a_wrong_ensemble_is_refused_by_its_place(tmp_path: Path, content: str, said: str) -> None:
    with pytest.raises(BundleError) as caught:
        ensemble(tmp_path, content)
    assert str(caught.value) == f"ensemble.toml: {said}"


def test_sixty_five_members_are_too_many(tmp_path: Path) -> None:
    assert len(ensemble(tmp_path, '[[members]]\nmodel = "a"\n' * 64).members) == 64
    with pytest.raises(BundleError, match="at most 64 items"):
        ensemble(tmp_path, '[[members]]\nmodel = "a"\n' * 65)


def test_a_missing_ensemble_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"^ensemble\.toml cannot be read: No such file or directory$"):
        read_ensemble(tmp_path)
