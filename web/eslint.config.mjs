import js from "@eslint/js";
import tseslint from "typescript-eslint";

const upward = (folders) => [
  "error",
  {
    patterns: [
      { group: folders.map((folder) => `**/${folder}/*`), message: "data < map < search, ui: no import upward." },
    ],
  },
];

export default tseslint.config(
  { ignores: ["node_modules/"] },
  js.configs.recommended,
  {
    files: ["**/*.ts"],
    extends: [tseslint.configs.strictTypeChecked, tseslint.configs.stylisticTypeChecked],
    languageOptions: { parserOptions: { projectService: true, tsconfigRootDir: import.meta.dirname } },
    rules: {
      "@typescript-eslint/explicit-function-return-type": ["error", { allowExpressions: true }],
      // An empty text often means the same as none.
      "@typescript-eslint/prefer-nullish-coalescing": ["error", { ignorePrimitives: { string: true } }],
      // Numbers in messages need no conversion.
      "@typescript-eslint/restrict-template-expressions": ["error", { allowNumber: true }],
      // Arrow functions that call a method for its effect are common in listeners.
      "@typescript-eslint/no-confusing-void-expression": ["error", { ignoreArrowShorthand: true }],
    },
  },
  { files: ["**/*.mjs"], languageOptions: { globals: { process: "readonly" } } },
  { files: ["src/data/**"], rules: { "no-restricted-imports": upward(["map", "search", "ui"]) } },
  { files: ["src/map/**"], rules: { "no-restricted-imports": upward(["search"]) } },
);
