"""Media at https URLs: only of allowed hosts, only at public addresses, only so many bytes in so much time."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import httpx

from omni.streaming.problems import refused_medium, too_large
from omni.streaming.settings import Settings

PORT = 443
MOST_HOPS = 3
MOST_URL = 8192
NAT64 = ipaddress.ip_network("64:ff9b::/96")
REDIRECTS = (301, 302, 303, 307, 308)

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolver = Callable[[str], Awaitable[Sequence[str]]]


async def resolve(host: str) -> list[str]:
    """All addresses of a host."""
    found = await asyncio.get_running_loop().getaddrinfo(host, PORT, type=socket.SOCK_STREAM)
    return [str(address[4][0]) for address in found]


def is_public(text: str) -> bool:
    """Whether an address lies in the open internet, also where it stands for another one."""
    try:
        address: Address = ipaddress.ip_address(text)
    except ValueError:
        return False
    inner: list[Address | None] = []
    if isinstance(address, ipaddress.IPv6Address):
        inner = [address.sixtofour, *(address.teredo or ())]
        if address in NAT64:
            inner.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
        if address.ipv4_mapped or address.is_site_local:
            return False
    return all(one.is_global and not one.is_multicast for one in (address, *inner) if one is not None)


@dataclass
class Remote:
    """Fetches media.

    A URL is parsed once. Its host's addresses are looked up once, all have to be public, and the connection goes to one of
    them, so that no second look-up can lead elsewhere. A redirect is a new URL to which all of this applies again.

    Attributes:
        resolve: looks a host up. transport: carries requests; the network's own where None. port: of https.
    """

    settings: Settings
    resolve: Resolver = resolve
    transport: httpx.AsyncBaseTransport | None = None
    port: int = PORT
    _tls: ssl.SSLContext | None = field(default=None, repr=False)

    async def fetch(self, source: str, param: str) -> bytes:
        """What lies at an https URL; Problem where it may not be fetched, or does not come."""
        limits = self.settings.limits
        try:
            async with asyncio.timeout(limits.decode_seconds):
                url = self._parse(source, param)
                for _ in range(1 + MOST_HOPS):
                    found = await self._get(url, param)
                    if isinstance(found, bytes):
                        return found
                    url = self._parse(found, param)
        except TimeoutError:
            raise refused_medium(param, f"the URL did not give the file within {limits.decode_seconds:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL, ssl.SSLError, OSError):
            raise refused_medium(param, "the URL could not be fetched; check it, or send the file as base64") from None
        raise refused_medium(param, f"the URL leads on more than {MOST_HOPS} times; give the last one")

    def _parse(self, source: str | httpx.URL, param: str) -> httpx.URL:
        if not self.settings.media_domains:
            raise refused_medium(param, "this server fetches no URLs; send the file as base64")
        if isinstance(source, str) and (len(source) > MOST_URL or not source.isascii() or not source.isprintable()):
            raise refused_medium(param, f"the URL has characters that are no part of URLs, or more than {MOST_URL}")
        try:
            url = httpx.URL(source)
        except httpx.InvalidURL:
            raise refused_medium(param, "the URL is not one that can be read") from None
        if url.scheme != "https":
            raise refused_medium(param, "only https URLs are fetched")
        if url.userinfo or (url.port or PORT) != PORT or "\\" in str(source):
            raise refused_medium(param, "the URL names a user or another port than 443, or has a backslash; leave that out")
        if url.host not in self.settings.media_domains:
            raise refused_medium(param, "this server fetches nothing from that host; send the file as base64")
        return url

    async def _get(self, url: httpx.URL, param: str) -> bytes | httpx.URL:
        """The body, or where it is instead."""
        addresses = await self.resolve(url.host)
        if not addresses or not all(map(is_public, addresses)):
            raise refused_medium(param, "that host has an address that is not public; send the file as base64")
        pinned = url.copy_with(host=addresses[0], port=self.port, fragment=None)
        if not self.transport and not self._tls:
            self._tls = await asyncio.to_thread(httpx.create_ssl_context)
        async with (
            httpx.AsyncClient(
                transport=self.transport, verify=self._tls or True, trust_env=False, follow_redirects=False
            ) as client,
            client.stream(
                "GET",
                pinned,
                headers={"host": url.host, "accept-encoding": "identity", "user-agent": "omni"},
                extensions={"sni_hostname": url.host},
            ) as response,
        ):
            if response.status_code in REDIRECTS and "location" in response.headers:
                return url.join(response.headers["location"])
            if response.status_code != 200 or response.headers.get("content-encoding", "identity") != "identity":
                raise refused_medium(param, "the URL gives no file; check it, or send the file as base64")
            return await self._read(response, param)

    async def _read(self, response: httpx.Response, param: str) -> bytes:
        most = self.settings.limits.media_bytes
        data = bytearray()
        async for piece in response.aiter_raw():
            data += piece
            if len(data) > most:
                raise too_large(param, f"more than the {most} bytes that are allowed")
        return bytes(data)
