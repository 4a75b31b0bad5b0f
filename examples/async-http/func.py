import asyncio
import io
import json
import time

import httpx
from fdk import response


async def handler(ctx, data: io.BytesIO = None):
    """Fetch the URLs of {"urls": [...]} at the same time; tell each one's status, bytes and seconds."""
    urls = json.loads(data.getvalue() or b"{}").get("urls", [])
    async with httpx.AsyncClient(timeout=10, follow_redirects=True) as client:
        pages = await asyncio.gather(*(fetch(client, url) for url in urls[:20]))
    return response.Response(
        ctx, response_data=json.dumps({"pages": pages}), headers={"Content-Type": "application/json"}
    )


async def fetch(client: httpx.AsyncClient, url: str) -> dict:
    start = time.monotonic()
    try:
        reply = await client.get(url)
    except (httpx.HTTPError, httpx.InvalidURL) as exc:
        return {"url": url, "error": f"{type(exc).__name__}: {exc}"}
    return {
        "url": url,
        "status": reply.status_code,
        "bytes": len(reply.content),
        "seconds": round(time.monotonic() - start, 3),
    }
