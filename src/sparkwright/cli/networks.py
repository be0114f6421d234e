"""`sparkwright networks` and `sparkwright summary`."""

from typing import TYPE_CHECKING, Annotated

import typer

from sparkwright.cli import options

if TYPE_CHECKING:
    from sparkwright.networks.catalogue import Entry


def list_networks(as_json: options.Json = False) -> None:
    """List the networks of the catalogue."""
    from sparkwright.networks.catalogue import CATALOGUE

    rows = [
        {
            "name": entry.name,
            "weights": _source(entry),
            "about": entry.about,
        }
        for entry in CATALOGUE.values()
    ]
    width = max(len(row["name"]) for row in rows)
    text = "\n".join(f"{row['name']:<{width}}  {row['weights']:<9} {row['about']}" for row in rows)
    options.show({"networks": rows}, text, as_json=as_json)


def _source(entry: "Entry") -> str:
    """Say where a network's weights come from."""
    if entry.packaged or entry.url:
        return "packaged" if entry.packaged else "download"
    return "a file" if entry.classes else "random"


def summary(
    network: Annotated[str, typer.Argument(help="A name of the catalogue, or a file or folder with a network.")],
    weights: Annotated[
        str, typer.Option(help="A .safetensors file for the network, or `random`, which shows the same layers.")
    ] = "random",
    preprocessing: options.Preset = None,
    layer: options.Layer = None,
    as_json: options.Json = False,
) -> None:
    """Show a network's layers: shapes, parameters, multiply-adds, memory.

    A network of the catalogue is shown without its weights, so that nothing is downloaded.
    """
    from pathlib import Path

    from sparkwright.networks.catalogue import load_network

    is_file = Path(network).exists()
    loaded = load_network(network, weights=None if is_file else weights, preprocessing=preprocessing)
    if layer is not None:
        loaded = loaded.cut(layer)
    table = loaded.summary()
    options.show(table.to_dict(), str(table), as_json=as_json)
