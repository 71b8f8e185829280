"""``make kills``: kill servers, and prove that what was acknowledged is counted exactly once."""
import asyncio, sys, tempfile, json, argparse, shutil
from pathlib import Path
from tests.recovery.nursery import Nursery
from tests.recovery.stage import over_sqlite, over_postgres
from tests.recovery.story import Story, Tally
from tests.services.postgres import PostgresServer, installed_binaries

def main() -> None:
    p = argparse.ArgumentParser()
    p.add_argument("--kills", type=int, default=500); p.add_argument("--store", default="sqlite"); p.add_argument("--seed", type=int, default=1)
    p.add_argument("--folder")
    a = p.parse_args()
    folder = Path(a.folder or tempfile.mkdtemp())
    folder.mkdir(exist_ok=True, parents=True)
    async def play(stage_of):
        async with stage_of as stage:
            def show(t):
                if t.blows % 10 == 0: print(t, file=sys.stderr)
            return await Story(stage, a.seed, show).play(a.kills)
    with Nursery(folder / "nursery.log") as nursery:
        if a.store == "sqlite":
            e = asyncio.run(play(over_sqlite(folder, nursery, a.seed)))
        else:
            binaries, rm = installed_binaries()
            with PostgresServer.folder() as f:
                s = PostgresServer(f, binaries); s.start()
                try:
                    e = asyncio.run(play(over_postgres(folder, nursery, a.seed, s.url(s.create()))))
                finally:
                    s.stop()
                    if rm: shutil.rmtree(rm)
    print(e, file=sys.stderr)
    v = e.verdict
    print(json.dumps({"kills": e.tally.kills, "acked": v.acked, "counted": v.counted, "lost": v.lost, "double": v.double}))
main()
