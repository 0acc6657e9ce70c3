"""Addresses of servers: what is sent of them, and what is refused."""

import pytest

from scheduler_service.generation.backends.http import HttpServer


def test_user_and_password_of_an_address_are_sent_but_are_no_part_of_it():
    server = HttpServer("http://user:hunter2@h:1/prefix/?key=hunter2#x")
    assert server.url == "http://h:1/prefix"
    assert server._authorization == "Basic dXNlcjpodW50ZXIy"
    assert HttpServer("http://user:hunter2@h:1", token="t")._authorization == "Bearer t"


@pytest.mark.parametrize("url", ["h:1", "ftp://u:hunter2@h", "http://", "http://u:hunter2@h:99999", ""])
def test_what_is_no_address_is_refused_without_repeating_it(url):
    with pytest.raises(ValueError, match="backend_url: is no http") as caught:
        HttpServer(url)
    assert "hunter2" not in str(caught.value)
