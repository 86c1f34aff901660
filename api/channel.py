"""A waitress channel that refuses in the dialect of the path, and whose socket a responder may take over.

    environ["smelt.upgrade"](session)   after the responder returns, session(sock, environ) runs on its own thread

That is for the WebSocket upgrade (RFC 6455) on the HTTP port. Waitress never sees the socket again: its main loop
drops the channel, its worker thread goes back to the pool.
"""

import threading

from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser
from waitress.task import ErrorTask, WSGITask

from .errors import encode, envelope_for
from .request_ids import headers, new_id

WORDS = {
    400: ("invalid_http", "the request is not valid HTTP"),
    413: ("request_too_large", "the body is too large; --max-body-mb raises the limit"),
    431: ("headers_too_large", "the headers are larger than this server takes"),
    500: ("server_error", "the server failed on this request; its log says more"),
    501: ("not_implemented", "this transfer encoding is not supported"),
}


class Parser(HTTPRequestParser):
    """A request that was refused by its headers is over, even if its client asks whether to send the body.

    waitress 3.0.2 answers 100 Continue all the same and then reads the whole body; curl asks so from 1 MB.
    """

    def received(self, data):
        taken = super().received(data)
        if self.error is not None:
            self.expect_continue = False
        return taken


class JsonErrorTask(ErrorTask):
    """What waitress refuses before the application sees it: oversized bodies and headers, broken HTTP."""

    def execute(self):
        error = self.request.error
        code, words = WORDS.get(error.code, ("server_error", error.reason))
        body = encode(
            envelope_for(getattr(self.request, "path", ""))(error.code, f"{words} ({error.body})", None, code)
        )
        self.status = f"{error.code} {error.reason}"
        self.response_headers += [("Content-Type", "application/json"), *headers(new_id())]
        self.set_close_on_finish()
        self.content_length = len(body)
        self.write(body)


class Task(WSGITask):
    session = None

    def get_environment(self):
        environ = super().get_environment()
        environ["smelt.upgrade"] = self.upgrade
        return environ

    def upgrade(self, session):
        self.session = session

    def finish(self):
        if self.session is None:
            super().finish()
        else:  # nothing was written: the session answers 101 (or 400) itself
            self.channel.hand_off(self.session, self.environ)


class Channel(HTTPChannel):
    task_class = Task
    error_task_class = JsonErrorTask
    parser_class = Parser

    def hand_off(self, session, environ):
        """Called on a worker thread. The main loop itself forgets the channel: no race with its poll()."""
        gone = threading.Event()
        self.server.trigger.pull_trigger(lambda: (self.del_channel(), gone.set()))
        gone.wait()
        sock, self.connected = self.socket, False
        if sock is None:  # the client left before the hand-off
            return
        sock.setblocking(True)
        threading.Thread(target=run_session, args=(session, sock, environ), name="websocket", daemon=True).start()


def run_session(session, sock, environ) -> None:
    try:
        session(sock, environ)
    except OSError:  # the client left before the 101
        pass
    finally:
        sock.close()
