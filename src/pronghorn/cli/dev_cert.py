"""`pronghorn dev-cert`: a certificate for development, and the command lines that use it.

Law: the authority's key is thrown away, so that it signs nothing else; nothing is put in the system's store; a file
that exists is replaced only with --force.
"""

from __future__ import annotations

import os
import shlex
from typing import Any

import rich_click as click

from pronghorn.errors import BadSetting, MissingExtra, PronghornError
from pronghorn.system.trusted_paths import Place

HOSTS = ("localhost", "127.0.0.1", "::1")


@click.command("dev-cert")
@click.argument("hosts", metavar="[HOST]...", nargs=-1)
@click.option("--folder", "-d", default=".", show_default=True, metavar="FOLDER", help="Where the files go.")
@click.option(
    "--days", default=30, show_default=True, metavar="N", type=click.IntRange(1, 3650), help="How long they last."
)
@click.option("--force", is_flag=True, help="Replace files that are there.")
def command(hosts: tuple[str, ...], folder: str, days: int, force: bool) -> None:
    """Make a throw-away certificate for HOSTs (names and addresses; by default, of this machine).

    Three files: dev-cert.pem, its key in dev-key.pem, which nobody else can read, and dev-ca.pem, the authority that
    clients have to trust.
    """
    hosts = hosts or HOSTS
    certificate, key, authority = (os.path.join(folder, f"dev-{name}.pem") for name in ("cert", "key", "ca"))
    made = issued(hosts, days)
    if not force:
        _refuse_to_replace([certificate, key, authority])
    for path, content, mode in zip((certificate, key, authority), made, (0o644, 0o600, 0o644), strict=True):
        write(path, content, mode)
    serve, connect = shlex.quote(certificate), shlex.quote(authority)
    click.echo(f"For {', '.join(hosts)}, good for {days} days: {certificate}, {key}, {authority}\n")
    click.echo(f"  pronghorn serve --tls-cert {serve} --tls-key {shlex.quote(key)}")
    name = "" if "localhost" in hosts else f" --tls-name {shlex.quote(hosts[0])}"
    click.echo(f"  pronghorn connect 8000 --tls --tls-ca {connect}{name}")


def issued(hosts: tuple[str, ...], days: int) -> tuple[bytes, bytes, bytes]:
    """Certificate, key and authority, as PEM. Raises MissingExtra without trustme, and BadSetting for a wrong host."""
    try:
        import trustme
    except ImportError:
        hint = "pip install trustme"
        raise MissingExtra("Making certificates needs the package trustme.", "It is not installed.", hint) from None
    import datetime

    until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days)
    made: Any = trustme.CA(organization_name="pronghorn dev-cert")
    try:
        leaf = made.issue_cert(*hosts, not_after=until, organization_name="pronghorn dev-cert")
    except ValueError as error:
        raise BadSetting(f"{' '.join(hosts)} cannot stand in a certificate.", f"{error}.") from None
    chain = b"".join(each.bytes() for each in leaf.cert_chain_pems)
    return chain, leaf.private_key_pem.bytes(), made.cert_pem.bytes()


def _refuse_to_replace(paths: list[str]) -> None:
    there = [path for path in paths if os.path.lexists(path)]
    if there:
        raise PronghornError(
            f"{', '.join(there)} {'is' if len(there) == 1 else 'are'} there already.",
            "Whoever uses it would find another certificate.",
            "Choose another --folder, or say --force to replace what is there.",
        )


def write(path: str, content: bytes, mode: int) -> None:
    """Writes a file that has `mode` from the first moment on, and replaces whatever has the name. Raises OSError."""
    with Place(path) as place:
        fresh = f"{place.name}.{os.getpid()}"
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode, dir_fd=place.fd)
        try:
            with open(fd, "wb") as file:
                file.write(content)
            os.rename(fresh, place.name, src_dir_fd=place.fd, dst_dir_fd=place.fd)
        except BaseException:
            os.unlink(fresh, dir_fd=place.fd)
            raise
