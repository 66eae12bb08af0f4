"""What one writes first: FastAPI, a plain function in its pool of threads, one session as it comes."""

from typing import Annotated, Any

import numpy as np
import uvicorn
from fastapi import Body, FastAPI
from PIL import ImageOps

from bench.peers.picture import PORT, SIDE, answer, centre, labels, resized, session

app = FastAPI()
engine, names = session(), labels()

Jpeg = Annotated[bytes, Body(media_type="image/jpeg")]


@app.post("/classify")
def classify(image: Jpeg) -> dict[str, Any]:
    (probabilities,) = engine.run(["probabilities"], {"images": centre(image)})[0]
    return answer(probabilities, names)


@app.post("/ten_crop")
def ten_crop(image: Jpeg) -> dict[str, Any]:
    """Four corners and the middle, each with its mirror image, in one batch; the mean of the probabilities."""
    whole = resized(image)
    right, bottom = whole.width - SIDE, whole.height - SIDE
    corners = [(0, 0), (right, 0), (0, bottom), (right, bottom), (round(right / 2), round(bottom / 2))]
    crops = []
    for left, top in corners:
        crop = whole.crop((left, top, left + SIDE, top + SIDE))
        crops += [np.asarray(crop), np.asarray(ImageOps.mirror(crop))]
    probabilities = engine.run(["probabilities"], {"images": np.stack(crops)})[0]
    return answer(probabilities.mean(axis=0), names)


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=PORT, log_level="warning")
