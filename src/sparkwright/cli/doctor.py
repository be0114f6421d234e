"""`sparkwright doctor`: what is wrong with this machine and cluster, and how to mend it."""

import typer

from sparkwright.cli import options

_MARKS = {True: "ok  ", False: "FAIL", None: "-   "}


def doctor(
    master: options.Master = None,
    remote: options.Remote = None,
    conf: options.Conf = None,
    as_json: options.Json = False,
) -> None:
    """Check Java, Python, versions, memory and slots, here and on the workers."""
    from sparkwright.session import doctor as examine

    checks = examine(options.parse_master(master, remote), remote, options.parse_conf(conf))
    lines = []
    for check in checks:
        lines.append(f"{_MARKS[check.ok]}  {check.name:<12} {check.found}")
        if check.advice and check.ok is not True:
            lines.append(f"      → {check.advice}")
    healthy = all(check.ok is not False for check in checks)
    lines.append("All is well." if healthy else "Mend what says FAIL, then run `sparkwright doctor` again.")
    document = {
        "ok": healthy,
        "checks": [
            {"name": check.name, "ok": check.ok, "found": check.found, "advice": check.advice} for check in checks
        ],
    }
    options.show(document, "\n".join(lines), as_json=as_json)
    if not healthy:
        raise typer.Exit(1)
