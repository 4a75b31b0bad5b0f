"""The other end of the pipe hop: reads a length-prefixed body, runs the hello, writes the answer the same way."""

import json
import os
import struct

LENGTH = struct.Struct(">I")


def main() -> None:
    while frame := os.read(0, 2**18):
        answer = json.dumps({"hello": json.loads(frame[LENGTH.size :])["name"]}).encode()
        os.write(1, LENGTH.pack(len(answer)) + answer)


main()
