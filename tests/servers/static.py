"""A server of the files of a folder: python static.py FOLDER PORT."""

import sys

from aiohttp import web


def main(folder: str, port: str) -> None:
    app = web.Application()
    app.router.add_static("/", folder, show_index=True)
    web.run_app(app, host="127.0.0.1", port=int(port), print=None, access_log=None)


if __name__ == "__main__":
    main(*sys.argv[1:])
