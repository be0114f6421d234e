"""`sparkwright quickstart`: the main job on an embedded data set."""

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from sparkwright.cli import options
from sparkwright.cli.transfer import show_result


def quickstart(
    out: Annotated[str, typer.Option(help="The run's folder.")] = "quickstart-run",
    seed: options.Seed = 0,
    overwrite: options.Overwrite = False,
    master: options.Master = None,
    conf: options.Conf = None,
    as_json: options.Json = False,
) -> None:
    """Run the main job on handwritten digits: a network that knows 0 to 4 is transferred to 5 to 9."""
    from sparkwright.data.digits import write_digits
    from sparkwright.transfer import transfer

    options.check_early(out, overwrite=overwrite)
    with tempfile.TemporaryDirectory(prefix="sparkwright-digits-") as folder:
        write_digits(Path(folder), digits=range(5, 10))
        with options.open_session(master, None, conf) as spark:
            result = transfer(
                spark,
                folder,
                "digits_cnn",
                out,
                seed=seed,
                overwrite=overwrite,
                sinks=options.progress_sinks(as_json),
            )
    show_result(result, as_json=as_json)
