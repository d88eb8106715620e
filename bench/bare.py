"""A FastAPI route that does nothing, on the server that the door uses: ``python -m bench.bare PORT``."""

import sys

import uvicorn
from fastapi import FastAPI
from fastapi.responses import Response

app = FastAPI()


@app.get("/")
async def nothing() -> Response:
    """Nothing."""
    return Response(b"{}", media_type="application/json")


class _Server(uvicorn.Server):
    async def startup(self, sockets: object = None) -> None:
        await super().startup()
        print("bare", flush=True)


if __name__ == "__main__":
    config = uvicorn.Config(app, port=int(sys.argv[1]), http="h11", ws="none", log_config=None, access_log=False)
    _Server(config).run()
