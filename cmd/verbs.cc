// SPDX-License-Identifier: Apache-2.0
#include "cmd/verbs.h"

#include <google/protobuf/stubs/logging.h>
#include <unistd.h>

#include <string>
#include <string_view>
#include <utility>
#include <variant>

#include "absl/functional/function_ref.h"
#include "base/machine_user.h"
#include "base/status.h"
#include "cmd/client_session.h"
#include "cmd/config.h"
#include "cmd/print.h"
#include "cmd/run_verbs.h"
#include "cmd/verb_handlers.h"

namespace imagefs {
namespace {

// Runs the verb of its arguments.
class VerbRunner {
 public:
  VerbRunner(GlobalOptions global, std::string_view version, const DaemonProgramParts* program,
             Output& out)
      : global_(std::move(global)), version_(version), program_(program), out_(out) {}

  int operator()(const CheckConfigArgs& args) {
    const absl::Status status = LoadConfig(args.file).status();
    if (!status.ok()) return out_.Fail(status);
    out_.Print(out_.json() ? CheckedJson(ConfigFile(args.file)) : "OK\n");
    return 0;
  }
  int operator()(const DaemonArgs& args) { return InProgram(program_->run, args); }
  int operator()(const DoctorArgs& args) { return InProgram(program_->doctor, args); }
  int operator()(const LoginArgs& args) { return InProgram(program_->login, args); }
  int operator()(const LogoutArgs& args) { return InProgram(program_->logout, args); }
  int operator()(const MountArgs& args) {
    return InSession([&](ClientSession& session) { return Run(session, args, program_); });
  }
  // A session has threads, and a container is made by a process that has none.
  int operator()(const RunArgs& args) {
    absl::StatusOr<Paths> paths = CheckSurroundings();
    if (!paths.ok()) return out_.Fail(paths.status());
    return RunProgramOf(args, global_, *paths, version_, out_);
  }
  template <typename Args>
  int operator()(const Args& args) {
    return InSession([&](ClientSession& session) { return Run(session, args); });
  }

 private:
  absl::StatusOr<Paths> CheckSurroundings() {
    const std::string directory = AbsolutePath(".").value_or("");
    IMAGEFS_ASSIGN_OR_RETURN(Paths paths, ResolvePaths(global_.root, global_.run, directory,
                                                       ThisUser(), ProcessEnvironment));
    IMAGEFS_RETURN_IF_ERROR(CheckDescriptors());
    IMAGEFS_RETURN_IF_ERROR(CheckSettingFile("--config", &global_.config));
    IMAGEFS_RETURN_IF_ERROR(CheckSettingFile("--ca-file", &global_.ca_file));
    return paths;
  }
  // Runs a part of the daemon's program.
  template <typename Args>
  int InProgram(int (*part)(const GlobalOptions&, const Args&, Paths, std::string_view, Output&),
                const Args& args) {
    absl::StatusOr<Paths> paths = CheckSurroundings();
    if (!paths.ok()) return out_.Fail(paths.status());
    return part(global_, args, *std::move(paths), version_, out_);
  }
  int InSession(absl::FunctionRef<int(ClientSession&)> verb) {
    absl::StatusOr<Paths> paths = CheckSurroundings();
    if (!paths.ok()) return out_.Fail(paths.status());
    ClientSession session(global_, *std::move(paths), version_, out_);
    return verb(session);
  }

  GlobalOptions global_;  // file paths are absolute after CheckSurroundings
  const std::string_view version_;
  const DaemonProgramParts* const program_;
  Output& out_;
};

}  // namespace

bool NeedsDaemonProgram(const Command& command) {
  const auto* mount = std::get_if<MountArgs>(&command.args);
  return std::holds_alternative<DaemonArgs>(command.args) ||
         std::holds_alternative<DoctorArgs>(command.args) ||
         std::holds_alternative<LoginArgs>(command.args) ||
         std::holds_alternative<LogoutArgs>(command.args) ||
         (mount != nullptr && mount->foreground);
}

int RunCommand(const Command& command, std::string_view version, const DaemonProgramParts* daemon) {
  google::protobuf::SetLogHandler(nullptr);  // our own messages replace protobuf's
  Output out(command.global.json);
  return out.Finish(std::visit(VerbRunner(command.global, version, daemon, out), command.args));
}

}  // namespace imagefs
