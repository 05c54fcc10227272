"""A session's one thread: what is asked of it at once is all done."""

from __future__ import annotations

import threading

from tapml_nb.jobs import JobThread


def test_two_that_ask_at_once_are_both_answered():
    thread = JobThread(lambda: None)
    answers: list[object] = []
    gate = threading.Barrier(4)

    def ask(number: int) -> None:
        for _ in range(200):
            gate.wait()
            try:
                answers.append(thread.do(lambda: number))
            except Exception as error:
                answers.append(error)

    askers = [threading.Thread(target=ask, args=(k,)) for k in range(4)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    thread.close()
    assert sorted(map(str, answers)) == sorted([str(k) for k in range(4)] * 200)
