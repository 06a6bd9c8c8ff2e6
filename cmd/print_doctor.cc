// SPDX-License-Identifier: Apache-2.0
// The output of `imagefs doctor`.
#include "base/json.h"
#include "base/text.h"
#include "cmd/doctor.h"
#include "cmd/print.h"
#include "cmd/print_parts.h"

namespace imagefs {
namespace {

constexpr size_t kMaxText = 1000;

std::string Line(std::string_view text) { return OneLine(Shortened(text, kMaxText)); }

}  // namespace

std::string_view NameOf(Finding finding) {
  switch (finding) {
    case Finding::kOk:
      return "ok";
    case Finding::kNote:
      return "note";
    case Finding::kWarning:
      return "warning";
    case Finding::kProblem:
      return "problem";
  }
  return "";
}

// A row for each check, and below it what anything but "ok" means.
std::string DoctorText(const DoctorReport& report) {
  size_t width = 0;
  for (const DoctorCheck& check : report.checks()) width = std::max(width, check.name.size());
  constexpr size_t kResultWidth = 7;
  const auto padded = [](std::string_view text, size_t columns) {
    return StrCat(text, std::string(columns - std::min(columns, text.size()) + 2, ' '));
  };
  const std::string indent(kResultWidth + width + 4, ' ');
  std::string out;
  for (const DoctorCheck& check : report.checks()) {
    StrAppend(&out, padded(NameOf(check.result), kResultWidth), padded(check.name, width),
              Line(check.found), "\n");
    if (!check.meaning.empty()) StrAppend(&out, indent, "means:  ", Line(check.meaning), "\n");
    if (!check.remedy.empty()) StrAppend(&out, indent, "remedy: ", Line(check.remedy), "\n");
  }
  StrAppend(&out, Plural(report.Count(Finding::kProblem), "problem"), ", ",
            Plural(report.Count(Finding::kWarning), "warning"), "\n");
  return out;
}

std::string DoctorJson(const DoctorReport& report) {
  JsonWriter json(/*pretty=*/true);
  json.BeginObject().Key("checks").BeginArray();
  for (const DoctorCheck& check : report.checks()) {
    json.BeginObject()
        .Member("name", check.name)
        .Member("result", NameOf(check.result))
        .Member("found", check.found)
        .Member("meaning", check.meaning)
        .Member("remedy", check.remedy)
        .EndObject();
  }
  json.EndArray()
      .Member("problems", uint64_t{report.Count(Finding::kProblem)})
      .Member("warnings", uint64_t{report.Count(Finding::kWarning)})
      .EndObject();
  return Done(json);
}

}  // namespace imagefs
