"""The API's reference, made from the code, with what its pages need: they ask no other machine for anything."""

from collections.abc import Awaitable, Callable
from pathlib import Path

from fastapi import APIRouter, Response
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from fastapi.responses import FileResponse

_ASSETS = {
    "/docs/swagger-ui.css": ("swagger/swagger-ui.css", "text/css"),
    "/docs/swagger-ui-bundle.js": ("swagger/swagger-ui-bundle.js", "text/javascript"),
    "/redoc/redoc.standalone.js": ("redoc/redoc.standalone.js", "text/javascript"),
    "/redoc/logo-mini.svg": ("redoc/logo-mini.svg", "image/svg+xml"),
}
_NO_ICON = "data:,"
_KEPT = {"Cache-Control": "max-age=86400"}
_POLICY = {
    "Content-Security-Policy": "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; worker-src blob:; frame-ancestors 'none'"
}


class Reference:
    """The routes, for an application called `title` that describes itself at `openapi_url`."""

    def __init__(self, title: str, openapi_url: str) -> None:
        self._title, self._openapi_url = title, openapi_url
        self.routes = APIRouter()
        add = self.routes.add_api_route
        add("/docs", self.swagger, methods=["GET"], include_in_schema=False)
        add("/redoc", self.redoc, methods=["GET"], include_in_schema=False)
        for path, (file, kind) in _ASSETS.items():
            add(path, _asset(file, kind), methods=["GET"], include_in_schema=False)

    async def swagger(self) -> Response:
        page = get_swagger_ui_html(
            openapi_url=self._openapi_url,
            title=self._title,
            swagger_js_url="/docs/swagger-ui-bundle.js",
            swagger_css_url="/docs/swagger-ui.css",
            swagger_favicon_url=_NO_ICON,
            swagger_ui_parameters={"validatorUrl": None},
        )
        page.headers.update(_POLICY)
        return page

    async def redoc(self) -> Response:
        page = get_redoc_html(
            openapi_url=self._openapi_url,
            title=self._title,
            redoc_js_url="/redoc/redoc.standalone.js",
            redoc_favicon_url=_NO_ICON,
            with_google_fonts=False,
        )
        page.headers.update(_POLICY)
        return page


def _asset(file: str, kind: str) -> Callable[[], Awaitable[Response]]:
    async def answer() -> Response:
        import fastapi_standalone_docs  # its files are all that is used of it, and by few

        return FileResponse(Path(fastapi_standalone_docs.__path__[0]) / "static" / file, media_type=kind, headers=_KEPT)

    return answer
