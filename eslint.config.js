import js from '@eslint/js'
import tseslint from 'typescript-eslint'

export default tseslint.config(
  { ignores: ['dist/', 'build*/', 'node_modules/', 'coverage/', 'prebuilds/'] },
  { linterOptions: { noInlineConfig: true, reportUnusedDisableDirectives: 'error' } },
  js.configs.recommended,
  {
    files: ['**/*.ts'],
    extends: [tseslint.configs.strictTypeChecked, tseslint.configs.stylisticTypeChecked],
    languageOptions: { parserOptions: { project: './tsconfig.json', tsconfigRootDir: import.meta.dirname } },
    rules: {
      '@typescript-eslint/restrict-template-expressions': [
        'error',
        { allowNumber: true, allowBoolean: true },
      ],
      // Numeric code reads better with plain index loops.
      '@typescript-eslint/prefer-for-of': 'off',
      // Indexing typed arrays and regular expression groups that are known to be there.
      '@typescript-eslint/no-non-null-assertion': 'off',
      // The public functions are also called from JavaScript, where the declared types promise nothing.
      '@typescript-eslint/no-unnecessary-condition': 'off',
      // Tensor operations read better as arrows that call a setter or a native function.
      '@typescript-eslint/no-confusing-void-expression': ['error', { ignoreArrowShorthand: true }],
    },
  },
  {
    files: ['**/*.cjs', '**/*.mjs', '**/*.js'],
    languageOptions: {
      globals: Object.fromEntries(
        [
          'process',
          'console',
          'require',
          'module',
          '__dirname',
          '__filename',
          'setTimeout',
          'Buffer',
          'URL',
        ].map((n) => [n, 'readonly']),
      ),
    },
  },
  {
    files: ['assets/**/*.js'],
    languageOptions: {
      sourceType: 'script',
      globals: Object.fromEntries(
        ['document', 'getComputedStyle', 'matchMedia', 'addEventListener', 'ResizeObserver', 'uPlot'].map(
          (name) => [name, 'readonly'],
        ),
      ),
    },
  },
)
