"""Commands for devices by HTTP: a web application asks the bus of the server that holds their connections.

    pip install fastapi uvicorn
    BUS=unix:/run/pronghorn/devices.bus uvicorn web:app
    curl -d 'status?' http://127.0.0.1:8000/devices/4711

`pronghorn ctl status` tells the path of the bus socket. Where a broker connects several servers, BUS is its URL, such
as redis://10.0.0.5, and the devices of all of them are reached.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, HTTPException, Request, Response

from pronghorn import bus

devices = bus.aconnect(os.environ.get("BUS", "unix:/run/pronghorn/devices.bus"))


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with devices:
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/devices/{number}")
async def command(number: str, request: Request) -> Response:
    """Sends the body to the device, and returns what it answers."""
    try:
        answer = await devices.ask(f"device:{number}", await request.body(), timeout=2)
    except bus.NobodyThere:
        raise HTTPException(404, f"Device {number} is not connected.") from None
    except bus.NoAnswer:
        raise HTTPException(504, f"Device {number} has not answered; it may have acted.") from None
    except bus.BusError as error:
        raise HTTPException(502, str(error)) from None
    return Response(answer, media_type="text/plain")
