"""The ceilings: handlers that do as little as can be done with the same bytes, over aiohttp and uvloop.

    python -m benchmarks.bare_server FOLDER

FOLDER has `answer`, `model` and `layout.json`; the two ports are written to `ports`. The first port reads
each body and answers a POST or PUT with `answer` and a GET with `model`. The second one decodes each PUT as a
report with the default codec, judges the delta as a round does, adds it to a sum, and nothing else.
"""

import asyncio
import json
import sys
from pathlib import Path

import msgspec
import uvloop
from aiohttp import web

from keyflock_compression import DEFAULT_SPEC, DecodeLimits, decode
from keyflock_models.network.config import ModelConfig
from keyflock_models.network.layout import ParamLayout
from keyflock_server.aggregation.clipping import DeltaValidator
from keyflock_server.aggregation.norm_scale import NormScale
from keyflock_server.aggregation.partial_aggregate import PartialAggregate
from keyflock_server.aggregation.verdicts import AdmittedReport
from keyflock_server.protocol.calls import MEDIA_TYPE, MODEL_MEDIA_TYPE
from keyflock_server.protocol.messages import Report
from keyflock_server.rounds.task import Aggregation

_TABLE = "codec"


class SummingHandler:
    """Decodes, judges and adds reports on the event loop.

    Args:
        layout: The layout of the deltas.
        norm: The usual norm, for the scale that they are judged with.
        answer: The body of each answer.
    """

    def __init__(self, layout: ParamLayout, norm: float, answer: bytes) -> None:
        self._layout = layout
        self._validator = DeltaValidator(Aggregation(), {_TABLE: NormScale.initial(norm)})
        self._sum = PartialAggregate(layout.size)
        self._answer = answer

    async def __call__(self, request: web.BaseRequest) -> web.Response:
        """Answer a request."""
        report = msgspec.msgpack.decode(await request.read(), type=Report)
        limits = DecodeLimits(max_container_bytes=len(report.delta))
        update = decode(report.delta, self._layout, spec=DEFAULT_SPEC, limits=limits)
        result = self._validator.validate(update, self._layout, _TABLE)
        if not isinstance(result, AdmittedReport):
            raise TypeError(f"the report was not admitted: {result.detail}")
        self._sum.add(result.update, 1.0, result.scale)
        return web.Response(body=self._answer, content_type=MEDIA_TYPE)


async def serve(folder: Path) -> None:
    """Serve both ports until the process is ended."""
    answer, model = (folder / "answer").read_bytes(), (folder / "model").read_bytes()
    settings = json.loads((folder / "layout.json").read_text(encoding="utf-8"))
    layout = ParamLayout.for_config(ModelConfig.from_dict(settings["config"]))

    async def answer_only(request: web.BaseRequest) -> web.Response:
        if request.method == "GET":
            return web.Response(body=model, content_type=MODEL_MEDIA_TYPE)
        await request.read()
        return web.Response(body=answer, content_type=MEDIA_TYPE)

    ports = []
    for handler in (answer_only, SummingHandler(layout, settings["norm"], answer)):
        runner = web.ServerRunner(web.Server(handler))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        ports.append(runner.addresses[0][1])
    partial = folder / "ports.new"
    partial.write_text(json.dumps(ports), encoding="utf-8")
    partial.replace(folder / "ports")
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(Path(sys.argv[1])))
