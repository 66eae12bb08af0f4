"""The JPEG files that the benches of speed send."""

from pathlib import Path

SIZE = (500, 375)
"""What most of ImageNet's photographs have, in pixels."""
RESIZE = 256
"""The shorter side to which ImageNet's are resized."""
SUFFIXES = (".jpg", ".jpeg")


def photos(folder: Path | None, resize: int = RESIZE) -> list[bytes]:
    """Eight cuts of scikit-learn's two photographs, or the user's own files, in the order of their names.

    Args:
        folder: of the user's.
        resize: the shorter side that the network wants: cuts are as much larger than that as ImageNet's photographs.

    Raises:
        FileNotFoundError: the folder has no JPEG file.
    """
    return _cuts(resize) if folder is None else _own(folder)


def _own(folder: Path) -> list[bytes]:
    files = [path.read_bytes() for path in sorted(folder.rglob("*")) if path.suffix.lower() in SUFFIXES]
    if not files:
        raise FileNotFoundError(f"{folder} has no {' or '.join(SUFFIXES)} file")
    return files


def _cuts(resize: int) -> list[bytes]:
    # A bench that measures memory must not map the libraries of the server that it measures: it calls this in a child.
    from samples import encode, photographs  # noqa: PLC0415

    corners = [(left, top) for left in (0, 140) for top in (0, 52)]
    boxes = [(left, top, left + SIZE[0], top + SIZE[1]) for left, top in corners]
    size = SIZE[0] * resize // RESIZE, SIZE[1] * resize // RESIZE
    return [encode(image.resize(size, box=box), "JPEG", quality=85) for image in photographs() for box in boxes]
