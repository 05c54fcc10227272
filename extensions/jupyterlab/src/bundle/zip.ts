// A zip file whose members are stored uncompressed, which is all that bundles are. Only what is asked
// for is read, so a file may be larger than memory.

const END = 0x06054b50;
const ENTRY = 0x02014b50;
const LOCAL = 0x04034b50;
const LONGEST_COMMENT = 0xffff;

export class ZipError extends Error {}

interface Member {
  at: number;
  size: number;
}

async function viewOf(blob: Blob, begin: number, end: number): Promise<DataView> {
  return new DataView(await blob.slice(Math.max(0, begin), end).arrayBuffer());
}

export class Zip {
  private constructor(
    private readonly blob: Blob,
    private readonly members: ReadonlyMap<string, Member>,
  ) {}

  /** Read the directory of a file; a `ZipError` says what is wrong with it. */
  static async open(blob: Blob): Promise<Zip> {
    const tail = await viewOf(blob, blob.size - LONGEST_COMMENT - 22, blob.size);
    let end = tail.byteLength - 22;
    while (end >= 0 && tail.getUint32(end, true) !== END) end--;
    if (end < 0) throw new ZipError("it is no zip file, or its end is missing");
    const count = tail.getUint16(end + 10, true);
    const size = tail.getUint32(end + 12, true);
    const at = tail.getUint32(end + 16, true);
    if (count === 0xffff || at === 0xffffffff) {
      throw new ZipError("it has more than 65,534 members or 4 GB, and is not read here");
    }
    const directory = await viewOf(blob, at, at + size);
    const members = new Map<string, Member>();
    const text = new TextDecoder();
    let p = 0;
    for (let k = 0; k < count; k++) {
      if (p + 46 > directory.byteLength || directory.getUint32(p, true) !== ENTRY) {
        throw new ZipError("its directory is damaged");
      }
      const [name, extra, comment] = [28, 30, 32].map((o) => directory.getUint16(p + o, true));
      const bytes = new Uint8Array(directory.buffer, p + 46, name!);
      const member = {
        at: directory.getUint32(p + 42, true),
        size: directory.getUint32(p + 24, true),
      };
      const called = text.decode(bytes);
      if (directory.getUint16(p + 10, true) !== 0) throw new ZipError(`${called} is compressed`);
      if (member.at + member.size > blob.size) {
        throw new ZipError(`${called} is larger than the file`);
      }
      members.set(called, member);
      p += 46 + name! + extra! + comment!;
    }
    return new Zip(blob, members);
  }

  has(name: string): boolean {
    return this.members.has(name);
  }

  /** A member's content. */
  read(name: string): Promise<ArrayBuffer> {
    return this.head(name, Infinity);
  }

  /** At most so many bytes of a member's content, the first. */
  async head(name: string, most: number): Promise<ArrayBuffer> {
    const member = this.members.get(name);
    if (!member) throw new ZipError(`there is no ${name} in it`);
    const { at, size } = member;
    const head = await viewOf(this.blob, at, at + 30);
    if (head.byteLength < 30 || head.getUint32(0, true) !== LOCAL) {
      throw new ZipError(`it is damaged where ${name} begins`);
    }
    const begin = at + 30 + head.getUint16(26, true) + head.getUint16(28, true);
    return await this.blob.slice(begin, begin + Math.min(size, most)).arrayBuffer();
  }
}
