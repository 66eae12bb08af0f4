"""mosec: as many workers as cores, each with a session of one thread."""

from typing import Any

from mosec import Server, Worker  # type: ignore[import-not-found] # lives in the peers' own environment

from bench.peers.picture import CORES, answer, centre, labels, session


class Classifier(Worker):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.engine, self.names = session(threads=1), labels()

    def deserialize(self, data: bytes) -> bytes:
        return data

    def forward(self, data: bytes) -> dict[str, Any]:
        (probabilities,) = self.engine.run(["probabilities"], {"images": centre(data)})[0]
        return answer(probabilities, self.names)


if __name__ == "__main__":
    server = Server()
    server.append_worker(Classifier, num=CORES)
    server.run()
