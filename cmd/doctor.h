// SPDX-License-Identifier: Apache-2.0
// `imagefs doctor`: looks at the machine, and at the registry of an image if one is given, and says
// what is wrong, what it means and what to do. Needs no daemon, starts none, and changes nothing.
// Runs in the process of the daemon's program, since it looks by the daemon's own means.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "cmd/cli.h"
#include "cmd/options.h"
#include "cmd/output.h"

namespace imagefs {

// How bad it is: as it should be; worth knowing; something works worse than it could, or only in
// part; something does not work.
enum class Finding { kOk, kNote, kWarning, kProblem };
std::string_view NameOf(Finding finding);  // "ok", "note", "warning", "problem"

struct DoctorCheck {
  std::string name;
  Finding result = Finding::kOk;
  std::string found;
  std::string meaning, remedy;  // of anything but kOk
};

// The checks in the order in which they were made. Not thread-safe.
class DoctorReport {
 public:
  void Ok(std::string_view name, std::string_view found) { Add(name, Finding::kOk, found, "", ""); }
  void Note(std::string_view name, std::string_view found, std::string_view meaning,
            std::string_view remedy) {
    Add(name, Finding::kNote, found, meaning, remedy);
  }
  void Warning(std::string_view name, std::string_view found, std::string_view meaning,
               std::string_view remedy) {
    Add(name, Finding::kWarning, found, meaning, remedy);
  }
  void Problem(std::string_view name, std::string_view found, std::string_view meaning,
               std::string_view remedy) {
    Add(name, Finding::kProblem, found, meaning, remedy);
  }
  void Add(std::string_view name, Finding result, std::string_view found, std::string_view meaning,
           std::string_view remedy);

  const std::vector<DoctorCheck>& checks() const { return checks_; }
  size_t Count(Finding result) const;

 private:
  std::vector<DoctorCheck> checks_;
};

// Returns the exit status: 1 if there is a problem.
int RunDoctor(const GlobalOptions& global, const DoctorArgs& args, Paths paths,
              std::string_view version, Output& out);

}  // namespace imagefs
