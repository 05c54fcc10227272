// A page's WebGPU device at the service of a target session. It knows no TVM: whoever holds the
// other end of the socket says what to allocate, compile, launch and read.

/** What is asked for; bytes to write travel behind it, and those that were read behind the answer. */
export type Work =
  | ["new", id: number, size: number]
  | ["free", id: number]
  | ["write", id: number, size: number]
  | ["fill", id: number, size: number, byte: number]
  | ["compile", id: number, source: string, entry: string, buffers: GPUBufferBindingType[]]
  | ["run", pipeline: number, buffers: number[], words: number[], groups: [number, number, number]]
  | ["read", id: number, size: number];

export interface Description {
  name: string;
  limits: Record<string, number>;
  f16: boolean;
}

const LIMITS: Record<string, keyof GPUSupportedLimits> = {
  "max-buffer-size": "maxBufferSize",
  "max-storage-buffer-binding-size": "maxStorageBufferBindingSize",
  "max-storage-buffers-per-shader-stage": "maxStorageBuffersPerShaderStage",
  "max-compute-workgroup-storage-size": "maxComputeWorkgroupStorageSize",
  "max-compute-invocations-per-workgroup": "maxComputeInvocationsPerWorkgroup",
  "max-compute-workgroup-size-x": "maxComputeWorkgroupSizeX",
  "max-compute-workgroup-size-y": "maxComputeWorkgroupSizeY",
  "max-compute-workgroup-size-z": "maxComputeWorkgroupSizeZ",
};

const SCOPES = ["out-of-memory", "internal", "validation"] as const;

export class Gpu {
  private buffers = new Map<number, GPUBuffer>();
  private pipelines = new Map<number, GPUComputePipeline>();

  private constructor(
    private device: GPUDevice,
    readonly description: Description,
  ) {}

  /** A device with all that its adapter has; throws an Error that says what is missing. */
  static async open(): Promise<Gpu> {
    if (!navigator.gpu) {
      throw new Error(
        isSecureContext
          ? "this browser has no WebGPU"
          : "browsers give WebGPU to pages from https or localhost alone",
      );
    }
    const adapter = await navigator.gpu.requestAdapter({ powerPreference: "high-performance" });
    if (!adapter) throw new Error("the browser has WebGPU, but no adapter for it");
    const limits: Record<string, number> = {};
    const required: Record<string, number> = {};
    for (const [name, key] of Object.entries(LIMITS)) {
      limits[name] = required[key] = adapter.limits[key] as number;
    }
    const f16 = adapter.features.has("shader-f16");
    const device = await adapter.requestDevice({
      requiredFeatures: f16 ? ["shader-f16"] : [],
      requiredLimits: required,
    });
    const { vendor, architecture, description } = adapter.info;
    const name =
      description || [vendor, architecture].filter(Boolean).join(" ") || "unnamed adapter";
    return new Gpu(device, { name: `${name} (${browser()})`, limits, f16 });
  }

  /** Why the device was lost, once it is. */
  get lost(): Promise<string> {
    return this.device.lost.then(({ reason, message }) => `${message || reason}`.trim());
  }

  close(): void {
    this.device.destroy();
  }

  /** Do everything asked for, in order; answers with the bytes that were read. */
  async do(works: Work[], data: Uint8Array<ArrayBuffer>): Promise<Uint8Array[]> {
    const { device } = this;
    for (const scope of SCOPES) device.pushErrorScope(scope);
    const reads: [GPUBuffer, number][] = [];
    let failure: Error | undefined;
    try {
      let at = 0;
      for (const work of works) {
        if (work[0] === "write") {
          const size = work[2];
          device.queue.writeBuffer(this.buffer(work[1]), 0, data, at, size);
          at += size;
        } else if (work[0] === "read") {
          reads.push([this.copy(work[1], work[2]), work[2]]);
        } else {
          await this.one(work);
        }
      }
      await device.queue.onSubmittedWorkDone();
    } catch (error) {
      failure = error as Error;
    }
    const found = await Promise.all(SCOPES.map(() => device.popErrorScope()));
    const errors = found.filter((error) => error !== null).map((error) => error.message);
    if (failure && !errors.length) errors.push(failure.message);
    if (failure?.cause === "rejected") errors.splice(0, errors.length, failure.message);
    if (errors.length) throw new Error(errors.join("\n"));
    return Promise.all(reads.map(([staging, size]) => this.map(staging, size)));
  }

  private async one(work: Exclude<Work, ["write" | "read", ...unknown[]]>): Promise<void> {
    const { device } = this;
    switch (work[0]) {
      case "new": {
        const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST;
        this.buffers.set(work[1], device.createBuffer({ size: work[2], usage }));
        break;
      }
      case "free":
        this.buffers.get(work[1])?.destroy();
        this.buffers.delete(work[1]);
        break;
      case "fill":
        device.queue.writeBuffer(this.buffer(work[1]), 0, new Uint8Array(work[2]).fill(work[3]));
        break;
      case "compile":
        this.pipelines.set(work[1], await this.compile(work[2], work[3], work[4]));
        break;
      case "run":
        this.run(this.pipelines.get(work[1])!, work[2], work[3], work[4]);
    }
  }

  private async compile(
    code: string,
    entryPoint: string,
    kinds: GPUBufferBindingType[],
  ): Promise<GPUComputePipeline> {
    const { device } = this;
    const module = device.createShaderModule({ code });
    const { messages } = await module.getCompilationInfo();
    const errors = messages.filter(({ type }) => type === "error");
    if (errors.length) {
      const lines = errors.map((m) => `line ${m.lineNum}, column ${m.linePos}: ${m.message}`);
      throw new Error(lines.join("\n"), { cause: "rejected" });
    }
    const entries = [...kinds, "uniform" as const].map((type, binding) => ({
      binding,
      visibility: GPUShaderStage.COMPUTE,
      buffer: { type },
    }));
    const layout = device.createPipelineLayout({
      bindGroupLayouts: [device.createBindGroupLayout({ entries })],
    });
    return device.createComputePipelineAsync({ layout, compute: { module, entryPoint } });
  }

  private run(
    pipeline: GPUComputePipeline,
    buffers: number[],
    words: number[],
    groups: [number, number, number],
  ): void {
    const { device } = this;
    const numbers = new Uint32Array(words);
    const uniform = device.createBuffer({
      size: numbers.byteLength,
      usage: GPUBufferUsage.UNIFORM | GPUBufferUsage.COPY_DST,
    });
    device.queue.writeBuffer(uniform, 0, numbers);
    const bound = [...buffers.map((id) => this.buffer(id)), uniform];
    const group = device.createBindGroup({
      layout: pipeline.getBindGroupLayout(0),
      entries: bound.map((buffer, binding) => ({ binding, resource: { buffer } })),
    });
    const encoder = device.createCommandEncoder();
    const pass = encoder.beginComputePass();
    pass.setPipeline(pipeline);
    pass.setBindGroup(0, group);
    pass.dispatchWorkgroups(...groups);
    pass.end();
    device.queue.submit([encoder.finish()]);
    uniform.destroy(); // what was submitted keeps it
  }

  private copy(id: number, size: number): GPUBuffer {
    const padded = Math.ceil(size / 4) * 4;
    const usage = GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST;
    const staging = this.device.createBuffer({ size: padded, usage });
    const encoder = this.device.createCommandEncoder();
    encoder.copyBufferToBuffer(this.buffer(id), 0, staging, 0, padded);
    this.device.queue.submit([encoder.finish()]);
    return staging;
  }

  private async map(staging: GPUBuffer, size: number): Promise<Uint8Array> {
    await staging.mapAsync(GPUMapMode.READ);
    const data = new Uint8Array(staging.getMappedRange()).slice(0, size);
    staging.destroy();
    return data;
  }

  private buffer(id: number): GPUBuffer {
    const found = this.buffers.get(id);
    if (!found) throw new Error(`there is no buffer ${id}`);
    return found;
  }
}

/** The browser's name and version, roughly. */
function browser(): string {
  const found = /(Firefox|Edg|Chrome|Version)\/(\d+)/.exec(navigator.userAgent);
  return found
    ? `${found[1]!.replace("Version", "Safari").replace("Edg", "Edge")} ${found[2]}`
    : "browser";
}
