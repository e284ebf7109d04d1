"""The application behind the page: the lines of an answer come as they are made, and few requests wait."""

import asyncio
import json
import threading

import pytest

from tests.live.given import needs_server


class Slow:
    """Stands for the work: a map each time `go` is set."""

    def __init__(self):
        self.go, self.made, self.gallery = threading.Event(), 0, {}

    def maps(self, asked):
        for i in range(3):
            assert self.go.wait(10)
            self.go.clear()
            self.made += 1
            yield {"map": i}

    def trust(self, asked, report):
        report(0, 2, "a step")
        raise ValueError("the\nreason")

    def look(self, asked):
        assert self.go.wait(10)
        return {}


def call(app, path, content, receive_more=None):
    """Starts a request; returns what it has sent so far, and its task."""
    sent, bodies = [], [{"type": "http.request", "body": json.dumps(content).encode()}]

    async def receive():
        if bodies:
            return bodies.pop()
        await (receive_more or asyncio.Event()).wait()
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    headers = [(b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": path, "headers": headers, "query_string": b"", "app": None}
    return sent, asyncio.ensure_future(app(scope, receive, send))


async def until(condition):
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.01)
    pytest.fail("it did not happen")


MAPS = {"picture": "p", "maps": [{"model": "a", "method": "gradcam"}]}
LOOK = {"picture": "p", "model": "a"}


@needs_server
def test_lines_come_as_they_are_made_and_work_ends_where_nobody_listens():
    from captum_extract_aggregate.live.app import application

    async def main():
        work, leaves = Slow(), asyncio.Event()
        app = application(work)
        sent, task = call(app, "/api/maps", MAPS, leaves)
        work.go.set()
        await until(lambda: len(sent) == 2)  # the start, and the first map
        assert json.loads(sent[1]["body"]) == {"map": 0}
        leaves.set()
        work.go.set()  # what is made now is the last
        await asyncio.wait_for(task, 60)
        assert work.made <= 2
        work.go.set()
        other, task = call(app, "/api/look", LOOK)  # its turn came
        await asyncio.wait_for(task, 60)
        assert other[0]["status"] == 200

    asyncio.run(main())


@needs_server
def test_steps_and_what_goes_wrong_behind_them():
    from captum_extract_aggregate.live.app import application

    async def main():
        sent, task = call(application(Slow()), "/api/trust", {"picture": "p", "map": MAPS["maps"][0]})
        await asyncio.wait_for(task, 60)
        lines = [json.loads(message["body"]) for message in sent[1:] if message["body"]]
        assert lines == [
            {"state": "begun", "done": 0, "of": 2, "what": "a step"},
            {"state": "refused", "error": "the reason"},
        ]

    asyncio.run(main())


@needs_server
def test_few_requests_wait():
    from captum_extract_aggregate.live.app import application

    async def main():
        work = Slow()
        app = application(work)
        waiting = [call(app, "/api/look", LOOK) for _ in range(9)]
        await until(lambda: any(sent for sent, _ in waiting))
        assert [sent[0]["status"] for sent, _ in waiting if sent] == [429]
        work.go.set()
        await asyncio.wait_for(asyncio.gather(*(task for _, task in waiting)), 60)
        assert sorted(sent[0]["status"] for sent, _ in waiting) == [200] * 8 + [429]

    asyncio.run(main())
