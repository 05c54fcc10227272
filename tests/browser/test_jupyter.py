"""The browser tests' own tools, on plain notebooks: what they say they do, they do."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import psutil
import pytest
from playwright.sync_api import Browser, expect

from tests.browser.conftest import new_page
from tests.browser.jupyter import (
    KERNELS,
    OLDER_KERNELS,
    KernelError,
    Lab,
    Server,
    processes_of,
    serve,
    write_notebook,
)

ROOT = Path(__file__).parent.parent.parent

COUNTER = """
    import anywidget, traitlets

    class Counter(anywidget.AnyWidget):
        _esm = '''
        export default {
          render({model, el}) {
            const button = document.createElement("button");
            button.className = "counter";
            const show = () => { button.textContent = `count ${model.get("count")}`; };
            button.onclick = () => {
              model.set("count", model.get("count") + 1);
              model.save_changes();
            };
            model.on("change:count", show);
            show();
            el.append(button);
          },
        };
        '''
        count = traitlets.Int(0).tag(sync=True)

    counter = Counter()
    counter
"""


@pytest.fixture(scope="module")
def tabs(browser: Browser, lab_server: Server) -> Iterator[Lab]:
    """One JupyterLab, where each test opens a notebook of its own: loading it takes seconds."""
    with new_page(browser) as page:
        yield Lab(page, lab_server)
    lab_server.reset()


def opened(lab: Lab, *cells: str, kernel: str = "python3") -> Lab:
    """The same page with a new notebook of these cells."""
    name = f"cells-{secrets.token_hex(4)}.ipynb"
    write_notebook(lab.root / name, cells, kernel)
    lab.open(name)
    return lab


def test_run_all_shows_every_output(tabs):
    lab = opened(tabs, "x = 6", "print('first')\nx * 7", "import sys; print(x, file=sys.stderr)")
    assert lab.run_all()
    assert [lab.cell_text(i) for i in range(3)] == ["", "first\n42", "6"]
    expect(lab.output(1)).to_contain_text("42")
    assert lab.errors == []


def test_run_all_tells_of_a_cell_that_raised(tabs):
    lab = opened(tabs, "1 / 0", "print('after')")
    assert not lab.run_all()
    assert "ZeroDivisionError" in lab.cell_text(0)
    assert lab.cell_text(1) == ""


def test_run_cell_runs_one_cell(tabs):
    lab = opened(tabs, "print('one')", "print('two')", "print('three')")
    assert lab.run_cell(1)
    assert [lab.cell_text(i) for i in range(3)] == ["", "two", ""]


def test_an_output_far_below_is_found(tabs):
    lab = opened(tabs, *(f"print('cell', {i})" for i in range(80)))
    assert lab.run_all()
    assert lab.cell_text(79) == "cell 79"
    expect(lab.output(79)).to_be_visible()
    assert lab.cell_text(0) == "cell 0"


def test_execute_runs_in_the_notebooks_kernel(tabs):
    lab = opened(tabs, "x = 6", "x")
    lab.run_cell(0)
    assert lab.execute("print(x * 7)\nprint('and more')") == "42\nand more\n"
    assert lab.execute("x = 8") == ""
    lab.run_cell(1)
    assert lab.cell_text(1) == "8"
    expect(lab.page.locator(".jp-InputPrompt").nth(1)).to_have_text("[2]:")


def test_execute_raises_the_traceback(tabs):
    lab = opened(tabs, "")
    with pytest.raises(KernelError, match="ZeroDivisionError: division by zero"):
        lab.execute("1 / 0")
    with pytest.raises(TimeoutError, match="not done in"):
        lab.execute("import time; time.sleep(0.5)", timeout=0.2)
    assert lab.execute("print('goes on')") == "goes on\n"


def test_kernels_have_the_tests_environment(tabs, kernel_cache):
    lab = opened(tabs, "")
    names = ["TAPML_CACHE", "HF_HUB_OFFLINE", "OMP_NUM_THREADS", "MPLBACKEND"]
    values = lab.execute(f"import os, json; print(json.dumps([os.environ[n] for n in {names}]))")
    inline = "module://matplotlib_inline.backend_inline"
    assert json.loads(values) == [str(kernel_cache), "1", "2", inline]


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_cell_is_interrupted(tabs, kernel):
    lab = opened(
        tabs, "import time\nprint('sleeps')\ntime.sleep(600)", "print('after')", kernel=kernel
    )
    lab.run_cell(0, wait=False)
    expect(lab.output(0)).to_contain_text("sleeps")
    lab.wait_busy()
    with pytest.raises(TimeoutError, match="kernel busy"):
        lab.wait_idle(timeout=0.2)
    lab.interrupt()
    lab.wait_idle()
    assert "KeyboardInterrupt" in lab.cell_text(0)
    assert lab.run_cell(1)
    assert lab.cell_text(1) == "after"


@pytest.mark.parametrize("kernel", KERNELS)
def test_each_kernel_has_its_ipykernel(tabs, kernel):
    import ipykernel

    lab = opened(
        tabs, "import ipykernel; print(ipykernel.__version__, ipykernel.__file__)", kernel=kernel
    )
    assert lab.run_all()
    version, path = lab.cell_text(0).split()
    assert version == OLDER_KERNELS.get(kernel, ipykernel.__version__)
    assert lab.execute("import sys; print(sys.prefix)").strip() == sys.prefix
    assert Path(path).is_relative_to(sys.prefix)


def test_a_restarted_kernel_has_forgotten(tabs):
    lab = opened(tabs, "x = 1", "import os; print(os.getpid())")
    lab.run_all()
    before = lab.cell_text(1)
    lab.restart_kernel()
    with pytest.raises(KernelError, match="NameError"):
        lab.execute("x")
    assert lab.run_cell(1)
    assert lab.cell_text(1) != before


def test_a_kernel_is_shut_down(tabs):
    lab = opened(tabs, "import os; print(os.getpid())")
    lab.run_all()
    process = int(lab.cell_text(0))
    assert psutil.pid_exists(process)
    lab.shutdown_kernel()
    assert not psutil.pid_exists(process)


def test_only_what_is_saved_survives_a_reload_and_nothing_a_reset(lab):
    opened(lab, "x = 'kept'; print(x)", "print('not saved')")
    lab.run_cell(0)
    lab.save()
    lab.run_cell(1)
    lab.reload()
    assert lab.cell_text(0) == "kept"
    assert lab.cell_text(1) == ""
    assert lab.execute("print(x)") == "kept\n"
    theme = lab.server.folder / "settings/@jupyterlab/apputils-extension/themes.jupyterlab-settings"
    lab.theme("JupyterLab Dark")
    assert theme.exists()
    lab.server.reset()  # as the fixture does after the test
    assert lab.server.request("kernels") == []
    assert not theme.exists()


def test_the_theme_changes(tabs):
    lab = opened(tabs, "")
    background = "() => getComputedStyle(document.body).getPropertyValue('--jp-layout-color0')"
    light = lab.page.evaluate(background)
    lab.theme("JupyterLab Dark")
    assert lab.page.evaluate(background) != light
    lab.theme("JupyterLab Light")
    assert lab.page.evaluate(background) == light


def test_errors_of_the_page_are_collected(tabs):
    lab = opened(tabs, "")
    lab.errors.clear()
    lab.page.evaluate("() => { setTimeout(() => { throw new Error('planted'); }); }")
    lab.page.evaluate("() => console.error('on the console')")
    lab.page.evaluate("() => console.log('no error')")
    lab.page.wait_for_function("() => true")
    logged, uncaught = sorted(lab.errors)
    assert "on the console" in logged
    assert "planted" in uncaught
    lab.errors.clear()


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_widget_talks_to_its_kernel(tabs, kernel):
    lab = opened(tabs, COUNTER, kernel=kernel)
    assert lab.run_all()
    button = lab.output(0).locator("button.counter")
    expect(button).to_have_text("count 0")
    button.click()
    button.click()
    expect(button).to_have_text("count 2")
    assert lab.execute("print(counter.count)") == "2\n"
    lab.execute("counter.count = 10")
    expect(button).to_have_text("count 10")
    assert lab.errors == []


def test_notebook_7_does_the_same(notebook7):
    lab = opened(notebook7, "x = 6\nprint(x * 7)", COUNTER)
    assert lab.run_cell(0)
    assert lab.cell_text(0) == "42"
    assert lab.execute("print(x)") == "6\n"
    assert lab.run_cell(1)
    button = lab.output(1).locator("button.counter")
    button.click()
    expect(button).to_have_text("count 1")
    lab.theme("JupyterLab Dark")
    lab.save()
    lab.reload()
    assert lab.cell_text(0) == "42"
    expect(button).to_have_text("count 1")
    lab.restart_kernel()
    with pytest.raises(KernelError, match="NameError"):
        lab.execute("x")
    assert lab.errors == []


def test_nothing_outlives_the_server(tmp_path):
    """Not even what a kernel started in a session of its own."""
    with serve(tmp_path) as server:
        kernel = server.request("kernels", "POST")["id"]
        started = processes_of(server.folder)
        (process,) = [p for p in started if kernel in " ".join(p.cmdline())]
        orphan = subprocess.Popen(["sleep", "600"], env=process.environ(), start_new_session=True)
        assert orphan.pid in [p.pid for p in processes_of(server.folder)]
    assert not psutil.pid_exists(orphan.pid)
    assert not any(p.is_running() for p in started)
    assert not server.folder.exists()


FAILING = """
    def test_this(page):
        page.set_content("<h1>seen</h1>")
        page.evaluate("() => console.log('heard')")
        assert False

    def test_that(page):
        page.set_content("<h1>seen</h1>")
"""


def test_a_failed_test_leaves_a_screenshot_and_the_console(tmp_path):
    settings = tmp_path / "pytest.ini"
    settings.write_text("[pytest]")
    (tmp_path / "conftest.py").write_text("from tests.browser.conftest import *")
    (tmp_path / "test_failing.py").write_text(dedent(FAILING))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-c", settings, tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "1 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    left = tmp_path / "build" / "screenshots"
    assert sorted(p.name for p in left.iterdir()) == [
        "failed-test_this.log",
        "failed-test_this.png",
    ]
    assert "log: heard" in (left / "failed-test_this.log").read_text()
