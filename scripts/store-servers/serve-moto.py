"""Serves moto's S3 on loopback, at the port that is given, one request at a time.

By itself moto looks at a condition and then writes, in two steps and in many threads: of two racing conditional writes both
may succeed, which the product rightly refuses. What is tested against it is the rest of its protocol.
"""

import sys
import threading

from moto.server import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import run_simple

serve = DomainDispatcherApplication(create_backend_app)
turn = threading.Lock()


def one_at_a_time(environ, start_response):
    with turn:
        return list(serve(environ, start_response))


run_simple(
    "127.0.0.1", int(sys.argv[1]), one_at_a_time, threaded=True, request_handler=MotoRequestHandler
)
