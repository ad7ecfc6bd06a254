/** What tests over a database share with the contract suite. */
export * from "../../src/testing/contract/Harness.ts"
export * from "../../src/testing/contract/steps.ts"
