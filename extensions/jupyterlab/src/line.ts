// The line to one kernel: its sessions, as `tapml_nb/widgets/directory.py` tells them, and what
// their feeds say to pages that no widget stands behind.
//
// The connection is one of this line's own that leaves comms alone: the notebook's own connection
// handles those, and there may be no notebook that shows this kernel. So messages are written and
// read as they are.

import { type Kernel, KernelMessage, type ServiceManager } from "@jupyterlab/services";
import { Signal } from "@lumino/signaling";

const COMM = "tapml_nb";
const PATIENCE = 2000; // ms for a kernel to open a shell

export interface CauseFacts {
  verdict: string;
  symbol: string;
  /** The worst of its operators. */
  op: string;
  ratio: number | string | null;
  count: number;
}

export interface SessionFacts {
  id: string;
  /** How many sessions the kernel had made by then. */
  made: number;
  name: string;
  target: string;
  operators: number;
  judged: number;
  run: string;
  phase: string;
  done: number;
  total: number;
  busy: boolean;
  state: "idle" | "connected" | "lost" | "closed";
  outcome: string;
  worst: { name: string; colour: string; symbol: string };
  /** The worst first; there are so many more. */
  causes: CauseFacts[];
  more: number;
}

export interface FeedMessage {
  session: string;
  message: unknown;
  buffers: DataView[];
}

type Data = KernelMessage.ICommMsgMsg["content"]["data"];

export class KernelLine {
  sessions: SessionFacts[] = [];
  /** What is told of the sessions has changed. */
  readonly changed = new Signal<this, void>(this);
  readonly said = new Signal<this, FeedMessage>(this);
  private readonly connection: Kernel.IKernelConnection;
  /** Where the kernel hears this line while a cell runs; null is where it runs cells. */
  private subshell: string | null = null;
  private opening: Promise<void> | undefined;

  constructor(
    kernels: ServiceManager.IManager["kernels"],
    model: Kernel.IModel,
    private pace: number,
  ) {
    this.connection = kernels.connectTo({ model, handleComms: false });
    this.connection.iopubMessage.connect(this.receive, this);
    this.connection.statusChanged.connect(this.follow, this);
    this.connection.connectionStatusChanged.connect(this.follow, this);
    if (this.connection.connectionStatus === "connected") void this.find();
  }

  /** Whether it may be long before the kernel hears anything. */
  get busy(): boolean {
    return ["busy", "unknown"].includes(this.connection.status);
  }

  dispose(): void {
    this.set([]);
    Signal.disconnectAll(this);
    Signal.clearData(this);
    this.closeSubshell();
    this.connection.dispose();
  }

  /** Say something to the feed of a session. */
  say(session: string, message: unknown): void {
    this.send({ session, message } as Data);
  }

  interrupt(): Promise<void> {
    return this.connection.interrupt();
  }

  /** Have the kernel tell of its sessions at most every so many seconds. */
  listen(pace: number): void {
    this.pace = pace;
    if (this.sessions.length) this.send({ list: pace });
  }

  /** Ask a kernel that has the comm to tell; the others do not learn that anybody asked. */
  private async find(): Promise<void> {
    try {
      const { content } = await this.connection.requestCommInfo({ target_name: COMM });
      if (content.status === "ok" && COMM in content.comms) this.send({ list: this.pace });
    } catch {
      // The connection was given up, or the kernel ended.
    }
  }

  /** Say something, once it is known where. */
  private send(data: Data): void {
    const { connection } = this;
    void (this.opening ?? Promise.resolve()).then(() => {
      if (connection.isDisposed || connection.status === "dead") return;
      const message = KernelMessage.createMessage<KernelMessage.ICommMsgMsg<"shell">>({
        msgType: "comm_msg",
        channel: "shell",
        session: connection.clientId,
        username: connection.username,
        subshellId: this.subshell,
        content: { comm_id: COMM, data },
      });
      connection.sendShellMessage(message, false, true);
    });
  }

  private receive(_: unknown, message: KernelMessage.IIOPubMessage): void {
    if (!KernelMessage.isCommMsgMsg(message) || message.content.comm_id !== COMM) return;
    const { sessions, subshells, session, message: said } = message.content.data;
    if (Array.isArray(sessions)) {
      if (subshells) this.opening ??= this.openSubshell();
      this.set(sessions as unknown as SessionFacts[]);
    } else if (typeof session === "string") {
      const buffers = (message.buffers ?? []).map((part) =>
        part instanceof ArrayBuffer
          ? new DataView(part)
          : new DataView(part.buffer as ArrayBuffer, part.byteOffset, part.byteLength),
      );
      this.said.emit({ session, message: said, buffers });
    }
  }

  /**
   * Have a shell of its own for this line. JupyterLab's own methods for it need the kernel to have
   * answered on the other one, which it does not before its cell has ended.
   */
  private async openSubshell(): Promise<void> {
    const { connection } = this;
    const request = KernelMessage.createMessage<KernelMessage.ICreateSubshellRequestMsg>({
      msgType: "create_subshell_request",
      channel: "control",
      session: connection.clientId,
      username: connection.username,
      content: {},
    });
    try {
      const late = new Promise<undefined>((done) => setTimeout(done, PATIENCE));
      const reply = await Promise.race([connection.sendControlMessage(request, true).done, late]);
      const content = reply?.content as { subshell_id?: string } | undefined;
      this.subshell = content?.subshell_id ?? null;
    } catch {
      // It is heard when the cell has ended.
    }
  }

  private closeSubshell(): void {
    const { connection, subshell } = this;
    this.subshell = null;
    this.opening = undefined;
    if (subshell === null || connection.isDisposed || connection.status === "dead") return;
    const request = KernelMessage.createMessage<KernelMessage.IDeleteSubshellRequestMsg>({
      msgType: "delete_subshell_request",
      channel: "control",
      session: connection.clientId,
      username: connection.username,
      content: { subshell_id: subshell },
    });
    connection.sendControlMessage(request, false, true);
  }

  private set(sessions: SessionFacts[]): void {
    if (!sessions.length && !this.sessions.length) return;
    this.sessions = sessions;
    this.changed.emit();
  }

  private follow(_: unknown, status: Kernel.Status | Kernel.ConnectionStatus): void {
    if (!this.sessions.length) this.changed.emit(); // what there is to wait for has changed
    if (status === "connected") void this.find();
    else if (["restarting", "autorestarting", "dead"].includes(status)) {
      this.subshell = null; // it is gone, too
      this.opening = undefined;
      this.set([]);
    }
  }
}
