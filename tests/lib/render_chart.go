// SPDX-License-Identifier: Apache-2.0

// render_chart CHART CONTEXT: prints what a chart gives with these values (JSON: Values, Release, Chart), as helm does
// with its templates, for the functions that ours use. Helm's engine is the same library.
package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/template"
)

func empty(v interface{}) bool {
	truth, _ := template.IsTrue(v)
	return !truth
}

func indent(n int, s string) string {
	pad := strings.Repeat(" ", n)
	return pad + strings.ReplaceAll(s, "\n", "\n"+pad)
}

func main() {
	var context map[string]interface{}
	text, err := os.ReadFile(os.Args[2])
	if err == nil {
		err = json.Unmarshal(text, &context)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	t := template.New("chart").Option("missingkey=zero")
	t.Funcs(template.FuncMap{
		"include": func(name string, data interface{}) (string, error) {
			var out bytes.Buffer
			err := t.ExecuteTemplate(&out, name, data)
			return out.String(), err
		},
		"required": func(message string, v interface{}) (interface{}, error) {
			if empty(v) {
				return nil, fmt.Errorf("%s", message)
			}
			return v, nil
		},
		"default": func(fallback, v interface{}) interface{} {
			if empty(v) {
				return fallback
			}
			return v
		},
		"toJson": func(v interface{}) (string, error) {
			out, err := json.Marshal(v)
			return string(out), err
		},
		"quote":     func(v interface{}) string { return fmt.Sprintf("%q", fmt.Sprint(v)) },
		"indent":    indent,
		"nindent":   func(n int, s string) string { return "\n" + indent(n, s) },
		"sha256sum": func(s string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(s))) },
		"ternary": func(yes, no interface{}, which bool) interface{} {
			if which {
				return yes
			}
			return no
		},
		"dict": func(pairs ...interface{}) map[string]interface{} {
			out := map[string]interface{}{}
			for i := 0; i+1 < len(pairs); i += 2 {
				out[pairs[i].(string)] = pairs[i+1]
			}
			return out
		},
		"merge": func(into map[string]interface{}, from map[string]interface{}) map[string]interface{} {
			for key, value := range from {
				if _, has := into[key]; !has {
					into[key] = value
				}
			}
			return into
		},
	})
	files, _ := filepath.Glob(filepath.Join(os.Args[1], "templates", "*"))
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err == nil {
			_, err = t.New(filepath.Base(file)).Parse(string(text))
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	for _, file := range files {
		if filepath.Ext(file) != ".yaml" {
			continue
		}
		var out bytes.Buffer
		if err := t.ExecuteTemplate(&out, filepath.Base(file), context); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		if strings.TrimSpace(out.String()) != "" {
			fmt.Printf("---\n%s\n", strings.TrimSpace(out.String()))
		}
	}
}
