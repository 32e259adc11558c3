// Numbers as people read them, as `krypton_engine/figures.py` has them, but with a proper minus.

const DIGITS = 3;

/** Decimal exponents, of the first and past the last, of numbers that are written without a power of ten. */
const [FIRST, PAST] = [-4, 6];

/** A number in three significant digits: 0.00074, 0.837, 1.23e−07, −1240. */
export function figure(value: number): string {
  return figures([value])[0] as string;
}

/** The numbers of one legend, each in three significant digits and all in one notation. */
export function figures(values: readonly number[]): string[] {
  const rounded = values.map((value) => Number(value.toExponential(DIGITS - 1)));
  const plain = rounded.every((value) => !value || !Number.isFinite(value) || within(exponent(value)));
  return rounded.map((value) => written(value, plain).replaceAll("-", "−"));
}

/** A change with its sign. */
export function signed(value: number): string {
  return value > 0 ? `+${figure(value)}` : figure(value);
}

const within = (power: number) => FIRST <= power && power < PAST;
const exponent = (value: number) => Number(value.toExponential().split("e")[1]);

function written(value: number, plain: boolean): string {
  if (Number.isNaN(value)) return "nan";
  if (!Number.isFinite(value)) return value > 0 ? "inf" : "-inf";
  if (!value) return "0";
  if (plain) return String(Number(value.toFixed(Math.max(0, DIGITS - 1 - exponent(value)))));
  const [digits, power] = value.toExponential().split("e") as [string, string];
  return `${digits}e${power[0]}${power.slice(1).padStart(2, "0")}`;
}
