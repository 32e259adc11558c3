// Numbers as people read them, as `krypton_engine/common/figures.py` has them, but with a proper minus.

/** Significant digits: of a number, of the difference between two of a group, and as many as there are. */
const [DIGITS, APART, MOST] = [3, 2, 17];

/** Decimal exponents, of the first and past the last, of numbers that are written without a power of ten. */
const [FIRST, PAST] = [-4, 6];

/** A number in three significant digits: 0.00074, 0.837, 1.23e−07, −1240. */
export function figure(value: number): string {
  const [text = ""] = figures([value]);
  return text;
}

/** The numbers of one legend, each in three significant digits, or as many as tell them apart, and all in one notation. */
export function figures(values: readonly number[]): string[] {
  const [texts = []] = together(values);
  return texts;
}

/** Groups of numbers in one notation; those of one group are told apart, as by `figures`. */
export function together(...groups: readonly (readonly number[])[]): string[][] {
  const found = groups.map((group) =>
    group.map((value) => {
      const digits = digitsOf(value, group);
      return { value: Number(value.toExponential(digits - 1)), digits };
    }),
  );
  const plain = found.flat().every(({ value }) => !value || !Number.isFinite(value) || within(exponent(value)));
  return found.map((group) => group.map(({ value, digits }) => written(value, digits, plain).replaceAll("-", "−")));
}

/** What becomes of an output that changes by a drop, and by how much. */
export function moves(drop: number, text = figure(drop)): [string, string] {
  if (!drop) return ["changes by", text];
  return [drop > 0 ? "falls by" : "rises by", text.replace(/^−/, "")];
}

/** A number's size in one significant digit, rounded up: nothing is larger than it says. */
export function atMost(value: number): string {
  const size = Math.abs(value);
  if (!size || !Number.isFinite(size)) return figure(size);
  const unit = 10 ** Math.floor(Math.log10(size));
  return figure(Math.ceil(size / unit - 1e-9) * unit);
}

/** As many digits as tell a number from the nearest of its group. */
function digitsOf(value: number, group: readonly number[]): number {
  const gaps = group.map((other) => Math.abs(value - other)).filter((gap) => gap && Number.isFinite(gap));
  if (!value || !gaps.length) return DIGITS;
  return Math.min(MOST, Math.max(DIGITS, exponent(value) - exponent(Math.min(...gaps)) + APART));
}

const within = (power: number) => FIRST <= power && power < PAST;
// As Python: of the number in seven digits.
const exponent = (value: number) => Number(value.toExponential(6).split("e")[1]);

function written(value: number, digits: number, plain: boolean): string {
  if (Number.isNaN(value)) return "nan";
  if (!Number.isFinite(value)) return value > 0 ? "inf" : "-inf";
  if (!value) return "0";
  if (plain) return String(Number(value.toFixed(Math.max(0, digits - 1 - exponent(value)))));
  const [figures, power] = value.toExponential().split("e") as [string, string];
  return `${figures}e${power[0]}${power.slice(1).padStart(2, "0")}`;
}
