// SPDX-License-Identifier: Apache-2.0
// Failures as JSON.
#include <algorithm>
#include <iterator>
#include <string>
#include <string_view>
#include <vector>

#include "base/failure.h"
#include "base/json.h"
#include "base/text.h"
#include "cmd/print.h"
#include "cmd/print_parts.h"

namespace imagefs {
namespace {

// The words that remedies begin with. A clause that begins with another one is part of the cause,
// for example the rest of what a kernel, a library or a registry has said.
constexpr std::string_view kFirstWords[] = {
    "add",    "allow",    "ask",       "become",  "build",   "change", "check",   "chmod",
    "choose", "compress", "configure", "copy",    "correct", "create", "decrypt", "delete",
    "did",    "discard",  "end",       "fetch",   "give",    "have",   "if",      "imagefs",
    "import", "install",  "keep",      "leave",   "load",    "log",    "make",    "mount",
    "name",   "omit",     "pack",      "pull",    "push",    "raise",  "read",    "rebuild",
    "remove", "repair",   "run",       "save",    "see",     "set",    "sign",    "split",
    "start",  "stop",     "try",       "unmount", "unpack",  "unpin",  "use",     "wait",
    "write",
};

bool BeginsRemedy(std::string_view clause) {
  if (clause.starts_with("`imagefs ") || clause.starts_with("`systemctl ") ||
      clause.starts_with("`kill ")) {
    return true;
  }
  const std::string_view word = clause.substr(0, clause.find_first_of(" :(,"));
  return std::find(std::begin(kFirstWords), std::end(kFirstWords), word) != std::end(kFirstWords);
}

// Returns where clauses begin: after each "; " that is not within quotation marks, backquotes or
// brackets. Nothing after an unbalanced one counts.
std::vector<size_t> ClausesOf(std::string_view text) {
  std::vector<size_t> out;
  char quote = 0;
  int depth = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (quote != 0) {
      if (c == '\\') ++i;
      if (c == quote) quote = 0;
    } else if (c == '"' || c == '`') {
      quote = c;
    } else if (c == '(') {
      ++depth;
    } else if (c == ')') {
      depth = std::max(depth - 1, 0);
    } else if (depth == 0 && text.substr(i, 2) == "; ") {
      out.push_back(i + 2);
    }
  }
  return out;
}

// Returns the last clauses of a message "WHAT: CAUSE; REMEDY" that all say what to do, or "".
std::string_view RemedyOf(std::string_view message) {
  const std::vector<size_t> clauses = ClausesOf(message);
  size_t begin = message.size();
  for (auto at = clauses.rbegin(); at != clauses.rend(); ++at) {
    if (!BeginsRemedy(message.substr(*at))) break;
    begin = *at;
  }
  return message.substr(begin);
}

}  // namespace

void WriteError(JsonWriter& json, FailureKind kind, std::string_view message) {
  const std::string_view remedy = RemedyOf(message);
  const std::string_view cause =
      message.substr(0, message.size() - remedy.size() - (remedy.empty() ? 0 : 2));
  json.Key("error")
      .BeginObject()
      .Member("code", KindName(kind))
      .Member("message", message)
      .Member("cause", cause)
      .Member("remedy", remedy)
      .Member("exit", int64_t{ExitStatusOf(kind)})
      .EndObject();
}

std::string ErrorJson(const absl::Status& status) {
  JsonWriter json(/*pretty=*/true);
  json.BeginObject();
  WriteError(json, KindOf(status), ToStd(status.message()));
  json.EndObject();
  return Done(json);
}

}  // namespace imagefs
