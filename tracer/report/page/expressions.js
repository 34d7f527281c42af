"use strict";
// Expressions in b, s, p as sympy prints them, compiled to closures. A parser of its own: no eval.

const EXPRESSION_TOKEN =
  /\s*(?:(\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?)|([A-Za-z_]\w*)|(\*\*|\/\/|<=|>=|==|!=|[-+*\/%(),<>&|~]))/y;

// A quotient such as s/100 + 99/100 must not lose a whole number to rounding.
function floorExact(x) {
  const near = Math.round(x);
  return Math.abs(x - near) <= 1e-12 * Math.max(1, Math.abs(x)) ? near : Math.floor(x);
}

const EXPRESSION_FUNCTIONS = {
  Min: (...x) => Math.min(...x),
  Max: (...x) => Math.max(...x),
  floor: (x) => floorExact(x),
  ceiling: (x) => -floorExact(-x),
  Mod: (x, y) => x - y * floorExact(x / y),
  Abs: (x) => Math.abs(x),
  Eq: (x, y) => x === y,
  Ne: (x, y) => x !== y,
};

function tokenizeExpression(text) {
  const tokens = [];
  EXPRESSION_TOKEN.lastIndex = 0;
  while (EXPRESSION_TOKEN.lastIndex < text.length) {
    if (!text.slice(EXPRESSION_TOKEN.lastIndex).trim()) break;
    const at = EXPRESSION_TOKEN.lastIndex;
    const match = EXPRESSION_TOKEN.exec(text);
    if (!match) throw new Error(`cannot read "${text.slice(at)}" in "${text}"`);
    if (match[1] !== undefined) tokens.push({ type: "number", value: Number(match[1]) });
    else if (match[2] !== undefined) tokens.push({ type: "name", value: match[2] });
    else tokens.push({ type: match[3], value: match[3] });
  }
  return tokens;
}

const BINARY = {
  "+": (x, y) => x + y,
  "-": (x, y) => x - y,
  "*": (x, y) => x * y,
  "/": (x, y) => x / y,
  "//": (x, y) => floorExact(x / y),
  "%": (x, y) => x - y * floorExact(x / y),
  "**": (x, y) => x ** y,
  "<": (x, y) => x < y,
  "<=": (x, y) => x <= y,
  ">": (x, y) => x > y,
  ">=": (x, y) => x >= y,
  "==": (x, y) => x === y,
  "!=": (x, y) => x !== y,
  "&": (x, y) => Boolean(x && y),
  "|": (x, y) => Boolean(x || y),
};

// Loosest first, as in Python.
const LEVELS = [
  ["<", "<=", ">", ">=", "==", "!="],
  ["|"],
  ["&"],
  ["+", "-"],
  ["*", "/", "//", "%"],
];

class ExpressionParser {
  constructor(text) {
    this.text = text;
    this.tokens = tokenizeExpression(text);
    this.at = 0;
  }

  peek() {
    return this.at < this.tokens.length ? this.tokens[this.at].type : "end";
  }

  expect(type) {
    if (this.peek() !== type) throw new Error(`expected ${type} in "${this.text}"`);
    return this.tokens[this.at++];
  }

  parse() {
    const result = this.level(0);
    if (this.peek() !== "end") throw new Error(`text after the end in "${this.text}"`);
    return result;
  }

  level(n) {
    if (n === LEVELS.length) return this.unary();
    let left = this.level(n + 1);
    while (LEVELS[n].includes(this.peek())) {
      const apply = BINARY[this.tokens[this.at++].type];
      const a = left;
      const c = this.level(n + 1);
      left = (v) => apply(a(v), c(v));
    }
    return left;
  }

  unary() {
    const type = this.peek();
    if (type !== "-" && type !== "+" && type !== "~") return this.power();
    this.at++;
    const inner = this.unary();
    if (type === "+") return inner;
    return type === "-" ? (v) => -inner(v) : (v) => !inner(v);
  }

  power() {
    const base = this.atom();
    if (this.peek() !== "**") return base;
    this.at++;
    const exponent = this.unary();
    return (v) => base(v) ** exponent(v);
  }

  atom() {
    if (this.peek() === "number") {
      const value = this.tokens[this.at++].value;
      return () => value;
    }
    if (this.peek() === "name") return this.named(this.tokens[this.at++].value);
    this.expect("(");
    const inner = this.level(0);
    this.expect(")");
    return inner;
  }

  named(name) {
    if (this.peek() !== "(") {
      if (name === "True" || name === "False") return () => name === "True";
      if (!["b", "s", "p"].includes(name))
        throw new Error(`unknown name ${name} in "${this.text}"`);
      return (v) => v[name];
    }
    if (name === "Piecewise") return this.piecewise();
    if (!Object.hasOwn(EXPRESSION_FUNCTIONS, name))
      throw new Error(`unknown function ${name} in "${this.text}"`);
    const apply = EXPRESSION_FUNCTIONS[name];
    const args = this.list(() => this.level(0));
    return (v) => apply(...args.map((arg) => arg(v)));
  }

  list(item) {
    this.expect("(");
    const items = [item()];
    while (this.peek() === ",") {
      this.at++;
      items.push(item());
    }
    this.expect(")");
    return items;
  }

  piecewise() {
    const cases = this.list(() => this.list(() => this.level(0)));
    return (v) => {
      const hit = cases.find(([, condition]) => condition(v));
      return hit ? hit[0](v) : NaN;
    };
  }
}

// A function of {b, s, p}; an expression that cannot be read gives NaN and is reported once.
function compileExpression(source) {
  if (typeof source === "number") return () => source;
  if (source === null || source === undefined) return () => NaN;
  return new ExpressionParser(String(source)).parse();
}
