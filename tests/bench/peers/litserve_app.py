"""LitServe: as many workers as cores, as its documentation advises for a CPU; no batches, which gain nothing there."""

from typing import Annotated, Any

import litserve as ls  # type: ignore[import-not-found] # lives in the peers' own environment
from fastapi import Body

from bench.peers.picture import CORES, PORT, TIMEOUT_MS, Pixels, answer, centre, labels, session


class Classifier(ls.LitAPI):  # type: ignore[misc]
    def setup(self, device: str) -> None:
        self.engine, self.names = session(threads=1), labels()

    def decode_request(self, request: Annotated[bytes, Body(media_type="image/jpeg")]) -> Pixels:
        return centre(request)

    def predict(self, x: Pixels) -> Any:
        return self.engine.run(["probabilities"], {"images": x})[0][0]

    def encode_response(self, output: Any) -> dict[str, Any]:
        return answer(output, self.names)


if __name__ == "__main__":
    timeout = TIMEOUT_MS / 1000 or 30
    server = ls.LitServer(Classifier(), accelerator="cpu", workers_per_device=CORES, timeout=timeout)
    server.run(host="127.0.0.1", port=PORT, log_level="warning", generate_client_file=False)
