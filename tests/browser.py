"""A headless Chromium for the tests of the page, and what every page that it opens must keep to."""

import contextlib
import os
import shutil
from urllib.parse import urlsplit

import pytest
from app_client import TOKEN
from playwright.sync_api import expect, sync_playwright

CHROMIUM = shutil.which("chromium")
expect.set_options(timeout=20_000)  # ms; other tests run beside
ARGUMENTS = [
    "--disable-gpu",  # there is none, and looking for it takes time
    "--no-sandbox",  # as root there is none
    "--use-fake-device-for-media-stream",  # a microphone that beeps
    "--use-fake-ui-for-media-stream",
]


@contextlib.contextmanager
def chromium():
    """Start the browser; without one, skip, or fail where `STEMSIM_BROWSER=required`."""
    if CHROMIUM is None:
        message = "NO BROWSER: the tests of the page need Chromium. Install it: apt-get install chromium"
        if os.environ.get("STEMSIM_BROWSER") == "required":
            pytest.fail(message)
        pytest.skip(message)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@contextlib.contextmanager
def opened(browser, address, *, refused=(), **settings):
    """Open the page; in the end check that it asked no other host, and that nothing failed but what `refused` names."""
    context = browser.new_context(accept_downloads=True, **settings)
    outside, faults = [], []

    def guard(route):
        if urlsplit(route.request.url).hostname == "127.0.0.1":
            route.continue_()
        else:
            outside.append(route.request.url)
            route.abort()

    def note(message):
        if message.type == "error" and not any(one in message.text for one in refused):
            faults.append(message.text)

    context.route("**/*", guard)
    page = context.new_page()
    page.on("console", note)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto(f"{address}/?token={TOKEN}")
    page.locator("#search, #compare, #model, #library, #start").filter(visible=True).wait_for()
    try:
        yield page
    finally:
        context.close()
    assert outside == []
    assert faults == []
