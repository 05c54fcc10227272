"""The session: one model, one target, and everything that is learned about the two.

It is the face of an engine: arguments are checked here, on the thread of whoever calls, and all
work is done by the one thread of the engine, one command at a time.  Results are kept as they
come, so whatever ends a run early, nothing already known is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from tapml_nb.carve import Bundle, repro, writer
from tapml_nb.compile.kernel import KernelCode
from tapml_nb.engine.engine import Engine
from tapml_nb.engine.jobs import SessionBusy
from tapml_nb.engine.verbs import inspection, placement, runs, search
from tapml_nb.engine.verbs.inspection import SessionStatus, Which
from tapml_nb.engine.verbs.search import Criterion
from tapml_nb.execute.events import Callback, Event
from tapml_nb.execute.hybrid import TARGET
from tapml_nb.extras import may_need_extras
from tapml_nb.graph import Graph, OpId, Selector, select
from tapml_nb.jupyter.notebook import in_notebook, invite
from tapml_nb.migrate import Localization, Migration, in_order
from tapml_nb.numerics import as_parts
from tapml_nb.report import Report
from tapml_nb.report.tensor_heatmap import tensor_heatmap
from tapml_nb.terminal import printable

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from tapml_nb.widgets import Workbench

__all__ = ["Criterion", "Session", "SessionBusy", "SessionStatus", "Which"]


class Session:
    """Debugs one model on one target.  Made by :func:`tapml_nb.debug`; a context manager.

    Attributes:
        graph: the model's operators (:class:`~tapml_nb.graph.Graph`).
        engine: what does the work (:class:`~tapml_nb.engine.engine.Engine`), for people who
            write tools; it may change with any version.

    Example:
        >>> session.run().outcome, session.offload("act"), session.hybrid().info.outputs.name
        ('1 culprit', ['act/gelu'], 'PASS')
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.graph: Graph = engine.graph
        self._workbench: Workbench | None = None
        if in_notebook():
            from tapml_nb.widgets.directory import announce

            announce(self)

    @property
    def placement(self) -> dict[OpId, str]:
        """``"source"`` or ``"target"`` by operator; change it with :meth:`offload` and
        :meth:`restore`."""
        return self.engine.ledger.placement

    # -- runs ------------------------------------------------------------------------------------

    def run(
        self, ops: Selector | None = None, *, augment: bool = False, wait: bool = True
    ) -> Report:
        """Judge operators on the target, each on the source's own inputs.

        Args:
            ops: which (see :mod:`tapml_nb.graph.select`); default all.
            augment: also try each kernel that passes on inputs derived from the real ones: the
                largest and smallest magnitudes of the model, negated and reversed values, exact
                ties, equal rows, zeros, and sizes one off.  ``report.augmented`` has the results,
                apart from the real ones; where the source itself cannot compute an operator, or
                not without overflow, it is not tried.
            wait: show progress and return when done; else return at once with the report as it
                is now, while the run goes on (see :meth:`wait`, :meth:`stop`, :meth:`on`).

        Returns:
            The report.  Ctrl-C stops the run and raises; :attr:`report` keeps what was judged.

        Raises:
            SelectorError: if ``ops`` names no operator.
            ModelChanged: if a weight or an input is not what it was in the session's first run;
                so do all methods that look at tensors.
            RuntimeError: if the session is busy or closed.
            FrontendError: if the source cannot run the model.
            CompilerTrouble: if what keeps the compiler from its work is no kernel's fault.

        Example:
            >>> session.run("kind=gelu").verdict("act/gelu").name
            'PASS'
        """
        chosen = select(self.graph, ops)
        self.engine.start(runs.judge, chosen, augment=augment)
        return self.wait() if wait else self.report

    def hybrid(self, *, wait: bool = True) -> Report:
        """Run the model once with today's placement and judge every value it changes.

        Only what depends on a changed placement is computed.  The report's ``acc_`` columns and
        ``report.info.outputs`` say how far the result is from the pure source run.

        Args:
            wait: as for :meth:`run`.

        Example:
            >>> moved = session.offload("pool")
            >>> session.hybrid().info.outputs
            <Verdict.FAIL: 'FAIL'>
        """
        self.engine.start(runs.hybrid)
        return self.wait() if wait else self.report

    def wait(self, *, progress: bool = True) -> Report:
        """Wait for the run that is going on; return the report.

        Args:
            progress: show how far it is (in the main thread alone).

        Raises:
            KeyboardInterrupt: on Ctrl-C, after the run has been stopped.
            Exception: whatever ended the run.

        Example:
            >>> begun = session.run(wait=False)
            >>> session.wait(progress=False).outcome
            '1 culprit'
        """
        if self.engine.jobs.run is not None:
            self.engine.result_of(self.engine.jobs.run, progress)
        return self.report

    def stop(self) -> None:
        """Stop the run that is going on; what was judged is kept.  Returns when it has ended.

        The operator at work may finish within a quarter of a second; after that it is broken off.
        What is in C code of this process that does not return cannot be; it is left alone after
        some seconds, with a warning, and the session is of use again when it returns.
        """
        self.engine.jobs.stop()

    # -- placement ---------------------------------------------------------------------------------

    def offload(self, selector: Selector) -> list[OpId]:
        """Place operators on the target for the next :meth:`hybrid` run.

        Operators without a kernel there (see ``report.missing``), and those that compute no
        tensor, stay on the source.

        Returns:
            The operators that are now on the target.

        Raises:
            SelectorError: if the selector names no operator, or none that can be moved.

        Example:
            >>> session.offload(["fc", "kind=gelu"])
            ['fc/linear', 'act/gelu']
        """
        return placement.offload(self.engine, selector)

    def restore(self, selector: Selector) -> list[OpId]:
        """Place operators on the source again; returns them.

        Raises:
            SelectorError: if the selector names no operator.
        """
        return placement.restore(self.engine, selector)

    def migrate(self, order: str = "topological", ops: Selector | None = None) -> Migration:
        """Offload gradually, as far as the model's output stays within its noise floor.

        Operators that were not judged yet are judged first; those that do not pass are
        quarantined at once.  The others move in batches, each checked by a hybrid run; one that
        breaks the model goes back and the migration goes on.  Afterwards they are on the target.

        Args:
            order: ``"topological"``, ``"kind"``, ``"scope"``, ``"cheapest"`` (least time on the
                source first) or ``"riskiest_last"`` (smallest ratio first).
            ops: which operators may move; default all.

        Returns:
            The widest safe placement, the timeline, and what remains to fix.  Ctrl-C or
            :meth:`stop` end it early, with what was safe until then.

        Raises:
            SelectorError, ValueError: if ``ops`` or ``order`` names nothing.
            SessionBusy: if a run goes on.

        Example:
            >>> session.migrate(order="riskiest_last").offloaded
            ['fc/linear', 'act/gelu']
        """
        chosen = select(self.graph, ops)
        in_order(order, (), {})
        return self.engine.run(search.migrate, order, chosen)

    def localize(
        self, criterion: Criterion | None = None, ops: Selector | None = None
    ) -> Localization:
        """Find which operators, alone or together, break the model's output on the target.

        Args:
            criterion: what tells whether the model is right.  A function of its output tensors
                (NumPy arrays in order) that returns a bool, asked once per step; or ``"floor"``
                (default): all outputs are within the end-to-end noise floor; or, for language
                models, ``"top1"``: the same token is the likeliest at every position, or
                ``"kl"``: the mean divergence of the logits is at most 0.001 nats.
            ops: which operators to put on the target; default those that are there now, or, if
                there are none, every one that has a kernel.

        Returns:
            The culprits and the hybrid runs it took; empty if nothing breaks.  What was asked
            already is remembered, so a search that was stopped goes on where it was.

        Raises:
            SelectorError: if ``ops`` names no operator.
            ValueError: if there is no such criterion, or the model has no logits.
            SessionBusy: if a run goes on.

        Example:
            >>> session.localize(lambda outputs: outputs[0].min() > -9, ops="*").culprits
            []
        """
        criterion = "floor" if criterion is None else criterion
        search.check_criterion(self.engine, criterion)
        chosen = self.engine.ledger.on(TARGET)
        if ops is not None or not chosen:
            chosen = select(self.graph, ops)
        return self.engine.run(search.localize, criterion, chosen)

    def override(self, op: Selector, kernel: Any) -> None:
        """Put a kernel of your own in an operator's place, on the target.

        Args:
            op: the operator, or a selector that names exactly one.
            kernel: a ``tvm.tirx.PrimFunc`` in destination-passing style whose buffers are the
                operator's inputs and then its outputs (``graph[op].inputs``, ``.outputs``); or a
                function of NumPy arrays that returns an array or a tuple of them (it runs in
                this process, and results say so); or None to take an override back.

        Inputs are the operator's tensors in the order of the ATen call, as its schema has them,
        lists one by one: ``linear(input, weight, bias)``, ``where(condition, self, other)``,
        ``embedding(weight, indices)``, ``index_put(self, indices…, values)``, ``cat(tensors…)``.
        A tensor that is not given, and one that is given again, is none: ``x * x`` has one input.
        What a call reads beside its arguments comes last; calls that are one operator follow each
        other.  Of ONNX and Relax models it is the order of the node's, or the call's, own inputs.

        Raises:
            SelectorError: if ``op`` does not name exactly one operator.
            TypeError, ValueError: if the kernel cannot stand in its place.

        Example:
            >>> session.override("act", lambda x: np.maximum(x, 0))
            >>> session.run("act").verdict("act/gelu").name
            'FAIL'
            >>> session.override("act", None)
            >>> session.override("fc", lambda input, weight, bias: input @ weight.T + bias)
            >>> session.run("fc").verdict("fc/linear").name
            'PASS'
            >>> session.override("fc", None)
        """
        placement.override(self.engine, op, kernel)

    # -- results -----------------------------------------------------------------------------------

    @property
    def report(self) -> Report:
        """Everything known now, frozen."""
        return inspection.report(self.engine)

    @property
    def status(self) -> SessionStatus:
        """What the session is doing now."""
        return inspection.status(self.engine)

    @property
    def steps(self) -> int:
        """How many steps of inputs there are."""
        return len(self.engine.steps)

    @property
    def overrides(self) -> dict[OpId, str]:
        """What the user put in operators' places, in words."""
        return self.engine.kernels.overrides.words

    @property
    def ops(self) -> pd.DataFrame:
        """Every operator: ``op, kind, scope, layer, inputs, outputs, kernel, placement, file,
        line``; ``kernel`` is empty until it is compiled."""
        frame = self.graph.frame()
        labels = self.engine.kernels.labels()
        frame.insert(6, "kernel", [labels.get(op) for op in frame["op"]])
        frame.insert(7, "placement", [self.placement[op] for op in frame["op"]])
        return frame

    def tensor(
        self, op: Selector, which: Which = "source", step: int = 0, output: int = 0
    ) -> np.ndarray:
        """A tensor of an operator; complex numbers in complex64 or complex128.

        Args:
            op: the operator, or a selector that names exactly one.
            which: ``"source"``: what the source computed.  ``"target"``: what its kernel gives
                on the source's inputs (run again and fetched).  ``"float64"``: the exact result.
                ``"difference"``: target minus source, in float64.
            step: which step.
            output: which output.

        Raises:
            SelectorError, ValueError: if one of the arguments names nothing.
            RuntimeError: if the operator has no kernel, or it gives no result.

        Example:
            >>> session.tensor("pool", "target").shape, session.tensor("pool", "float64").dtype
            ((1, 1, 4, 4), dtype('float64'))
        """
        operator = self.engine.the_operator(op, step)
        inspection.check_tensor(operator, which, output)
        return self.engine.do(inspection.tensor, operator, which, step, output)

    def beyond(self, op: Selector, step: int = 0, output: int = 0) -> np.ndarray:
        """Which elements of an operator's tensor are beyond the limit: bool, of its shape.

        Those of integers and booleans are that differ.  The kernel runs again.

        Args:
            op: the operator, or a selector that names exactly one.
            step: which step.
            output: which output.

        Raises:
            SelectorError, ValueError: if one of the arguments names nothing, or the target's tensor
                has another shape or dtype than the source's.
            RuntimeError: if the operator has no kernel, or it gives no result.

        Example:
            >>> bool(session.beyond("pool").any()), bool(session.beyond("fc").any())
            (True, False)
        """
        operator = self.engine.the_operator(op, step)
        inspection.check_tensor(operator, "difference", output)
        return self.engine.do(inspection.beyond, operator, step, output)

    def heatmap(
        self,
        op: Selector,
        which: Which = "difference",
        step: int = 0,
        output: int = 0,
        *,
        axes: tuple[int, int] | None = None,
        fixed: Mapping[int, int] | None = None,
        theme: str = "any",
    ) -> Figure:
        """One tensor of an operator, element by element: a line frames what is beyond the limit,
        and the largest of each row and each column stand at the sides.

        A cell of a tensor of more than 512 rows or columns is the largest of its elements.

        Args:
            op, which, step, output: as of :meth:`tensor`.
            axes: which axes are rows and columns; default the last two.
            fixed: index by axis, for axes that are not shown; of the others the largest counts.
            theme: as of :meth:`Report.heatmap <tapml_nb.report.Report.heatmap>`.

        Raises:
            SelectorError, ValueError, RuntimeError: as :meth:`tensor` and :meth:`beyond`, or if
                axes or theme do not fit.

        Example:
            >>> session.heatmap("pool").savefig(folder / "pool.svg")
        """
        values = as_parts(self.tensor(op, which, step, output))
        marks = self.beyond(op, step, output)
        name = f"{self.engine.the_operator(op, step).id}: {which}"
        return tensor_heatmap(values, marks, name, which != "difference", axes, fixed, theme)

    def inputs(self, op: Selector, step: int = 0) -> list[np.ndarray]:
        """The tensors an operator reads, as the source computed them (``graph[op].inputs``).

        Args:
            op: the operator, or a selector that names exactly one.
            step: which step.

        Raises:
            SelectorError, ValueError: if one of the arguments names nothing.

        Example:
            >>> [(array.shape, array.dtype.name) for array in session.inputs("pool")]
            [((1, 1, 8, 8), 'float32')]
        """
        return self.engine.do(inspection.inputs, self.engine.the_operator(op, step), step)

    def code(self, op: Selector, step: int = 0) -> KernelCode:
        """What an operator looks like on its way to a kernel: Relax, TIR, generated source.

        Made on demand, and kept; for kernels that cannot be compiled as far as they came.

        Raises:
            SelectorError, ValueError: if one of the arguments names nothing.

        Example:
            >>> "avg_pool2d" in session.code("pool").relax
            True
        """
        return self.engine.do(inspection.code, self.engine.the_operator(op, step), step)

    def carve(self, path: str | Path, ops: Selector | None = None) -> Bundle:
        """Write operators with their real inputs and outputs as one replayable file.

        Args:
            path: the bundle to write, by custom ``*.tapml``.
            ops: which operators; default every one that was judged.

        Raises:
            SelectorError: if ``ops`` names no operator.
            ValueError: if the file cannot be written, or nothing was judged yet.

        Example:
            >>> bundle = session.carve(folder / "pool.tapml", "pool")
            >>> len(bundle), bundle.close()
            (1, None)
        """
        return writer.carve(self.engine, Path(path), ops)

    def repro(self, op: Selector, path: str | Path, step: int = 0) -> Path:
        """Write an operator that fails as one Python file that needs only TVM and NumPy.

        It holds the operator in Relax, its real inputs and the source's outputs, compiles and
        runs it as TVM deploys it, and prints where it differs.  Its exit status is 1 if it
        differs, 0 if not, 2 if it could not be run.  Large tensors are in a ``.npz`` beside it.

        Args:
            op: the operator, or a selector that names exactly one.
            path: the file to write, by custom ``*.py``.
            step: which step.

        Raises:
            SelectorError, ValueError: if one of the arguments names nothing, the operator does
                not fail, or TVM's package cannot run what the target's kind needs.

        Example:
            >>> session.repro("pool", folder / "pool.py")
            PosixPath('...pool.py')
        """
        return repro.reproduce(self.engine, op, Path(path), step)

    def on(self, event: type[Event] | str, callback: Callback) -> Callable[[], None]:
        """Call back on events of a type or name (see :mod:`tapml_nb.execute.events`).

        Callbacks run on the session's thread and must be quick.  Returns a function that ends
        the subscription.

        Example:
            >>> unsubscribe = session.on("OpJudged", lambda event: print(event.result.verdict))
            >>> _ = session.run("act")
            PASS
            >>> unsubscribe()
        """
        return self.engine.events.on(event, callback)

    # -- life --------------------------------------------------------------------------------------

    @property
    def address(self) -> str:
        """Where the target is, once it runs."""
        return self.engine.pool.first.address

    @property
    def link(self) -> str:
        """Where ``rpc="browser"``: the address of the page that becomes the target in the browser
        that opens it.

        Raises:
            RuntimeError: if the target is no browser.
        """
        return self.engine.pool.first.link

    @may_need_extras()
    def invite(self) -> None:
        """Show what makes a browser's page the target: in a notebook a widget that does so with
        the notebook's own page, elsewhere the link to open.

        Raises:
            RuntimeError: if the target is no browser.
        """
        invite(self.link)

    @property
    @may_need_extras()
    def widget(self) -> Workbench:
        """The session's workbench: graph, placement, live divergence, heatmaps, inspector.

        A session that is the last line of a cell shows it, with a static picture beside it for
        when the kernel is gone.
        """
        if self._workbench is None:
            from tapml_nb.widgets import Workbench

            self._workbench = Workbench(self)
        return self._workbench

    def close(self) -> None:
        """Stop what is going on and end the target, the compiler and all threads.  Idempotent.

        Results stay readable.
        """
        self.engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        jobs = self.engine.jobs
        state = "closed" if jobs.closed else "busy" if jobs.busy else "idle"
        kind = self.engine.settings.target.kind
        return printable(
            f"<Session of {self.graph.name} on {kind}: {len(self.graph)} operators, {state}>"
        )

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        return self.report._repr_mimebundle_()

    def _ipython_display_(self) -> None:
        from tapml_nb.widgets import show

        show(self, self.widget)
