"""What a URL names, and whether an IP address is one of the internet's."""

import ipaddress
from dataclasses import dataclass
from urllib.parse import quote, unquote, urlsplit

from sparkwright.networks.preprocessing import ImageError

__all__ = ["Place", "is_public", "is_url"]

_NAT64 = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052: an IPv4 address in the last 32 bits


def is_url(location: str) -> bool:
    """Tell ``http:`` and ``https:`` URLs from paths."""
    return location[:8].lower().startswith(("http://", "https://"))


def is_public(address: str) -> bool:
    """Tell whether an IP address is one of the internet's; an IPv4 address inside an IPv6 address is what counts."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour
        if ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
        return ip.is_global and not (ip.is_multicast or ip.is_site_local or ip.is_reserved)
    return ip.is_global and not ip.is_multicast


@dataclass(frozen=True)
class Place:
    """A URL's parts, as a request needs them."""

    secure: bool
    host: str
    port: int
    target: str
    login: str = ""

    @classmethod
    def of(cls, url: str) -> "Place":
        """Parse a URL.

        Raises:
            ImageError: it is none, or not of http or https.
        """
        try:
            parts = urlsplit(url)
            host, port = (parts.hostname or "").encode("idna").decode(), parts.port
        except ValueError as error:  # UnicodeError is one
            raise ImageError("unsupported", f"This is no URL: {error}.") from error
        if parts.scheme not in ("http", "https"):
            raise ImageError("not allowed", f"Only http and https URLs are fetched; this is of {parts.scheme!r}.")
        if not host or any(c.isspace() or c < " " for c in host):
            raise ImageError("unsupported", "This is no URL: it names no host.")
        target = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~")
        if parts.query:
            target += "?" + quote(parts.query, safe="/%:@!$&'()*+,;=~?[]|")
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}" if parts.username else ""
        secure = parts.scheme == "https"
        return cls(secure, host, port or (443 if secure else 80), target, login)
