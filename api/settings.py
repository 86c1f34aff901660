"""How the HTTP side behaves. The command line's flags make one of these; tests make their own."""

from dataclasses import dataclass

# What a browser sends as Origin for pages that run on this machine. Other web sites may not talk to a local server
# behind their visitor's back, unless the user lists them (--cors-origin); mlx-serve lets any site (`*`).
LOCAL_ORIGINS = (
    "http://localhost",
    "https://localhost",
    "http://127.0.0.1",
    "https://127.0.0.1",
    "http://[::1]",
    "https://[::1]",
    "app://",
    "file://",
    "tauri://",
    "vscode-webview://",
    "vscode-file://",
)
SPARE_THREADS = 8  # for /health, /v1/models and refusals while every stream is taken


@dataclass(frozen=True, slots=True)
class Settings:
    """
    origins          besides LOCAL_ORIGINS: origins whose pages may call, or "*" for all
    api_key          asked of every request but /health, when given
    max_body_bytes   larger bodies are answered 413 before they are read
    max_streams      generations in the house at once, running or waiting; more are answered 429
    poll_s           how often a silent generation asks whether its client is still there
    keep_alive_s     silence after which a stream sends a comment, so that proxies and clients keep waiting
    drain_s          what running requests get to finish in after SIGTERM
    enable_thinking  what chat templates are told where a request does not say; None leaves it to the template
    """

    host: str = "127.0.0.1"
    port: int = 11234
    origins: tuple[str, ...] = ()
    api_key: str | None = None
    max_body_bytes: int = 64 << 20
    max_streams: int = 128
    poll_s: float = 0.1
    keep_alive_s: float = 15.0
    drain_s: float = 30.0
    enable_thinking: bool | None = None

    @property
    def threads(self) -> int:
        return self.max_streams + SPARE_THREADS
