// One ESM file and one CSS file, kept in the repository: a Python-only contributor needs no Node.
import { build } from "esbuild";

const out = process.argv[2] ?? "../krypton_widget/static";
const common = { bundle: true, minify: true, target: "es2022", charset: "utf8", legalComments: "none" };
await build({ ...common, entryPoints: ["src/widget.ts"], outfile: `${out}/widget.js`, format: "esm" });
await build({ ...common, entryPoints: ["src/widget.css"], outfile: `${out}/widget.css` });
