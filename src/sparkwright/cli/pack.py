"""`sparkwright pack`: many small files → few large ones."""

from typing import Annotated

import typer

from sparkwright.cli import options


def pack(
    images: Annotated[list[str], typer.Argument(help="Photos: paths, folders or globs that Spark reads.")],
    out: options.Out,
    part_mib: Annotated[int, typer.Option(help="MiB of photos in a Parquet file.", min=1)] = 128,
    overwrite: options.Overwrite = False,
    master: options.Master = None,
    remote: options.Remote = None,
    conf: options.Conf = None,
    as_json: options.Json = False,
) -> None:
    """Write photos' own bytes into large Parquet files, which read faster than many small ones.

    The folder takes the photos' place wherever a command takes photos. Run again after it was stopped, it goes on.
    """
    from sparkwright.data.pack import pack as run_pack
    from sparkwright.events import Bus, StageEnded, StageStarted

    bus = Bus(options.progress_sinks(as_json))
    options.check_paths(images, master, remote, conf)
    with options.open_session(master, remote, conf) as spark:
        bus.emit(StageStarted("pack", unit="photos"))
        done = run_pack(spark, images, out, part_bytes=part_mib << 20, overwrite=overwrite, emit=bus.emit)
        bus.emit(StageEnded("pack", 0.0, rows=done.photos))
    text = (
        f"pack    {out}\n"
        f"photos  {done.photos:,} ({done.reused:,} packed before), {done.size_bytes:,} bytes\n"
        f"files   {len(done.files):,}"
    )
    document = {
        "pack": out,
        "photos": done.photos,
        "reused": done.reused,
        "bytes": done.size_bytes,
        "files": len(done.files),
    }
    options.show(document, text, as_json=as_json)
