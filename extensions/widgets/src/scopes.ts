// The scope tree: every module path with its operators, and counts that follow the results.

export interface Scope {
  path: string;
  name: string;
  parent: Scope | null;
  depth: number;
  /** Direct scopes and operators (numbers) in the order of their first operator. */
  children: (Scope | number)[];
  /** Every operator in and below it, in order. */
  ops: number[];
  /** How many of them have each verdict. */
  verdicts: Int32Array;
  /** How many of them are on the target. */
  onTarget: number;
}

export class ScopeTree {
  readonly root: Scope;
  readonly byPath = new Map<string, Scope>();
  /** The innermost scope of each operator. */
  readonly home: Scope[];

  constructor(paths: readonly string[], scopeOf: Uint32Array, verdicts: number, unknown: number) {
    const make = (path: string, name: string, parent: Scope | null): Scope => {
      const scope: Scope = {
        path,
        name,
        parent,
        depth: parent ? parent.depth + 1 : 0,
        children: [],
        ops: [],
        verdicts: new Int32Array(verdicts),
        onTarget: 0,
      };
      this.byPath.set(path, scope);
      return scope;
    };
    this.root = make("", "", null);
    const find = (path: string): Scope => {
      const known = this.byPath.get(path);
      if (known) return known;
      const dot = path.lastIndexOf(".");
      const parent = find(dot < 0 ? "" : path.slice(0, dot));
      const scope = make(path, path.slice(dot + 1), parent);
      parent.children.push(scope);
      return scope;
    };
    const homes = new Map<number, Scope>();
    this.home = Array.from(scopeOf, (index, op) => {
      let scope = homes.get(index);
      if (!scope) homes.set(index, (scope = find(paths[index]!)));
      scope.children.push(op);
      for (let s: Scope | null = scope; s; s = s.parent) {
        s.ops.push(op);
        s.verdicts[unknown]!++;
      }
      return scope;
    });
  }

  countVerdict(op: number, before: number, after: number): void {
    for (let s: Scope | null = this.home[op]!; s; s = s.parent) {
      s.verdicts[before]!--;
      s.verdicts[after]!++;
    }
  }

  countPlacement(op: number, change: number): void {
    for (let s: Scope | null = this.home[op]!; s; s = s.parent) s.onTarget += change;
  }
}
