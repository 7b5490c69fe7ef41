"""The chat page in a headless Chromium."""

import json
import re
import time

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait


@pytest.fixture
def browser(tmp_path):
    options = webdriver.ChromeOptions()
    for argument in (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run",
        "--disable-background-networking", "--disable-component-update",
        "--disable-sync", "--disable-dev-shm-usage",
        f"--user-data-dir={tmp_path}", "--window-size=360,740",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, Service("/usr/bin/chromedriver"))
    yield driver
    driver.quit()


def test_type_watch_tokens_stop(server, browser):
    browser.get(server.url + "/")
    find = lambda css: browser.find_element(By.CSS_SELECTOR, css)
    replies = lambda: browser.find_elements(
        By.CSS_SELECTOR, "#messages .message.assistant .content"
    )
    wait = WebDriverWait(browser, 30, poll_frequency=0.02)

    # Types, and sees the reply grow. Without chance this one is far too long
    # to end before it is stopped.
    find("#settings-button").click()
    find("#temperature").send_keys("0")
    find("#settings-button").click()
    find("#prompt").send_keys("Write a very long story about a fox.")
    find("#send").click()
    wait.until(lambda _: replies() and replies()[0].text)
    early = replies()[0].text
    wait.until(lambda _: len(replies()[0].text) > len(early) + 10)

    # Stops it: the text stays, the server's request ends.
    find("#stop").click()
    wait.until(lambda _: not find("#stop").is_displayed())
    server.await_idle(5)
    stopped = replies()[0].text
    time.sleep(0.3)
    assert replies()[0].text == stopped

    # Speed is shown; the page fits a phone; nothing was blocked or failed.
    assert "tokens/s" in find("#stats").text
    assert "first token after" in find("#stats").text
    overflow = browser.execute_script(
        "return document.documentElement.scrollWidth - innerWidth"
    )
    assert overflow <= 0
    find("#new-chat").click()
    wait.until(lambda _: not replies())
    severe = [e for e in browser.get_log("browser") if e["level"] == "SEVERE"]
    assert severe == []


def test_settings_shape_the_request(server, browser):
    browser.get(server.url + "/")
    find = lambda id: browser.find_element(By.ID, id)
    # What the page would send, and no answer.
    browser.execute_script(
        "window.fetch = async (url, options) => {"
        "  window.sent = options.body; throw new Error('none') }"
    )
    find("settings-button").click()
    values = {
        "system": "Be brief.", "temperature": "0.5", "top-p": "0.9",
        "max-tokens": "7",
    }
    for id, value in values.items():
        find(id).clear()
        find(id).send_keys(value)
    find("prompt").send_keys("Hello")
    find("send").click()
    wait = WebDriverWait(browser, 10, poll_frequency=0.02)
    wait.until(lambda b: b.execute_script("return window.sent"))
    sent = json.loads(browser.execute_script("return window.sent"))
    assert sent["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
    ]
    assert (sent["temperature"], sent["top_p"], sent["max_tokens"]) == (0.5, 0.9, 7)
    assert sent["stream"] is True


def test_dark_where_the_reader_likes_it(server, browser):
    browser.get(server.url + "/")

    def brightness(scheme, what):
        browser.execute_cdp_cmd(
            "Emulation.setEmulatedMedia",
            {"features": [{"name": "prefers-color-scheme", "value": scheme}]},
        )
        color = browser.execute_script(
            f"return getComputedStyle(document.body).{what}"
        )
        return sum(map(int, re.findall(r"\d+", color)[:3]))

    assert brightness("light", "backgroundColor") > brightness("light", "color")
    assert brightness("dark", "backgroundColor") < brightness("dark", "color")


def test_markup_from_model_and_user_stays_text(server, browser):
    browser.get(server.url + "/")
    markup = "<img src=x onerror=\"document.title='owned'\">"
    # A model that says just that, in Markdown's several places.
    reply = f"{markup}\n\n- {markup}\n\n**{markup}**\n\n```\n{markup}\n```\n"
    event = json.dumps({"choices": [{"delta": {"content": reply}}]})
    browser.execute_script(
        "const events = arguments[0];"
        "window.fetch = async () => new Response(events)",
        f"data: {event}\n\ndata: [DONE]\n\n",
    )
    browser.find_element(By.ID, "prompt").send_keys(markup)
    browser.find_element(By.ID, "send").click()
    content = lambda role: browser.find_element(
        By.CSS_SELECTOR, f"#messages .message.{role} .content"
    )
    wait = WebDriverWait(browser, 30, poll_frequency=0.05)
    wait.until(lambda b: b.find_element(By.ID, "send").is_displayed())
    assert content("user").text == markup
    assert content("assistant").text.count(markup) == 4
    assert browser.find_elements(By.CSS_SELECTOR, "#messages img") == []
    assert browser.title != "owned"
