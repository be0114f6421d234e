"""`sparkwright quickstart`: the main job on an embedded data set."""

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from sparkwright.cli.options import Conf, Json, Master, Overwrite, Seed, check_early, open_session, progress_sinks
from sparkwright.cli.transfer import show_result


def quickstart(
    out: Annotated[str, typer.Option(help="The run's folder.")] = "quickstart-run",
    seed: Seed = 0,
    overwrite: Overwrite = False,
    master: Master = None,
    conf: Conf = None,
    as_json: Json = False,
) -> None:
    """Run the main job on handwritten digits: a network that knows 0 to 4 is transferred to 5 to 9."""
    from sparkwright.data.digits import write_digits
    from sparkwright.transfer import transfer

    check_early(out, overwrite=overwrite)
    with tempfile.TemporaryDirectory(prefix="sparkwright-digits-") as folder:
        write_digits(Path(folder), digits=range(5, 10))
        with open_session(master, None, conf) as spark:
            result = transfer(
                spark,
                folder,
                "digits_cnn",
                out,
                seed=seed,
                overwrite=overwrite,
                sinks=progress_sinks(as_json),
            )
    show_result(result, as_json=as_json)
