/** Debian's Python, for peers that share no code with Weir. */
import { spawnSync } from "node:child_process";

/** A version manager's may come first on the PATH: Debian's packages belong to this one. */
export const PYTHON = "/usr/bin/python3";

/** Whether a module can be imported. */
export const hasModule = (name: string): boolean => spawnSync(PYTHON, ["-c", `import ${name}`]).status === 0;
