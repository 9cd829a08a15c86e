// Package tap prints the results of a test program in the Test Anything Protocol, version 13, with the names that
// the validation programs of opencontainers/runtime-tools call; testanything.org.
package tap

import (
	"encoding/json"
	"fmt"
	"strings"
)

// T counts the tests of one program.
type T struct {
	last, planned int
	TODO          bool
}

// New makes one.
func New() *T { return &T{planned: -1} }

// Header prints the version and, where it is known, the plan.
func (t *T) Header(planned int) {
	fmt.Println("TAP version 13")
	t.planned = planned
	if planned > 0 {
		fmt.Printf("1..%d\n", planned)
	}
}

// AutoPlan prints the plan at the end, from what was run.
func (t *T) AutoPlan() {
	if t.planned <= 0 {
		fmt.Printf("1..%d\n", t.last)
	}
}

// Ok prints the result of one test.
func (t *T) Ok(passed bool, description string) {
	t.last++
	result, directive := "ok", ""
	if !passed {
		result = "not ok"
	}
	if t.TODO {
		directive = " # TODO"
	}
	fmt.Printf("%s %d - %s%s\n", result, t.last, description, directive)
}

// Pass prints a test that passed.
func (t *T) Pass(description string) { t.Ok(true, description) }

// Fail prints a test that did not.
func (t *T) Fail(description string) { t.Ok(false, description) }

// Skip prints tests that were not run, and why.
func (t *T) Skip(count int, why string) {
	for i := 0; i < count; i++ {
		t.last++
		fmt.Printf("ok %d # SKIP %s\n", t.last, why)
	}
}

// Todo marks what follows as not expected to pass.
func (t *T) Todo() *T { return &T{last: t.last, planned: t.planned, TODO: true} }

// Diagnostic prints a remark.
func (t *T) Diagnostic(message string) { fmt.Println("# " + strings.ReplaceAll(message, "\n", "\n# ")) }

// Diagnosticf prints a remark that is formatted as Printf does.
func (t *T) Diagnosticf(format string, arguments ...interface{}) {
	t.Diagnostic(fmt.Sprintf(format, arguments...))
}

// YAML prints a block of details; JSON is YAML.
func (t *T) YAML(message interface{}) error {
	text, err := json.MarshalIndent(message, "  ", "  ")
	if err == nil {
		fmt.Printf("  ---\n  %s\n  ...\n", text)
	}
	return err
}
