// SPDX-License-Identifier: Apache-2.0
#include "cmd/run_spec.h"

#include <algorithm>
#include <iterator>
#include <optional>
#include <utility>

#include "base/status.h"
#include "base/text.h"
#include "cmd/rooted_path.h"

namespace imagefs {
namespace {

constexpr char kDefaultPath[] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
constexpr uint64_t kMaxUserFileBytes = 4 << 20;
constexpr uint64_t kMaxId = 0x7fffffff;  // as in runc; the kernel has some above for itself

// How a string of a packed spec begins.
constexpr char kProgram = 'p', kArgument = 'a', kVariable = 'e', kDirectory = 'd', kUser = 'u',
               kUserAsked = 'U';

// A string of the configuration ends where the kernel sees the first NUL.
absl::Status CheckText(std::string_view text, std::string_view what) {
  if (text.find('\0') == std::string_view::npos) return absl::OkStatus();
  return absl::InvalidArgumentError(
      StrCat("the image's configuration has a NUL in ", what, ": ", Printable(text, 60)));
}

absl::Status CheckTexts(const std::vector<std::string>& texts, std::string_view what) {
  for (const std::string& text : texts) IMAGEFS_RETURN_IF_ERROR(CheckText(text, what));
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::string>> Environment(const ImageConfig& config,
                                                     const RunOptions& options, bool terminal,
                                                     EnvironmentRef own) {
  std::vector<std::string> out;
  IMAGEFS_RETURN_IF_ERROR(CheckTexts(config.env, "Env"));
  for (const std::string& entry : config.env) {
    const size_t equals = entry.find('=');
    if (equals == std::string::npos || equals == 0) continue;
    SetIn(&out, std::string_view(entry).substr(0, equals),
          std::string_view(entry).substr(equals + 1));
  }
  if (ValueIn(out, "PATH").empty()) SetIn(&out, "PATH", kDefaultPath);
  if (terminal && ValueIn(out, "TERM").empty()) {
    const std::string term = own("TERM");
    SetIn(&out, "TERM", term.empty() ? "xterm" : term);
  }
  for (const std::string& entry : options.environment) {
    const size_t equals = entry.find('=');
    const std::string name = entry.substr(0, equals);
    if (name.empty()) return absl::InvalidArgumentError("--env takes NAME=VALUE or NAME");
    const std::string value =
        equals == std::string::npos ? own(name.c_str()) : entry.substr(equals + 1);
    SetIn(&out, name, value);
    // A variable that the caller does not have is none here either.
    if (equals == std::string::npos && value.empty()) out.pop_back();
  }
  return out;
}

absl::Status SetCommand(const ImageConfig& config, const RunOptions& options, bool shell,
                        RunSpec& spec) {
  if (shell) {
    const std::string_view own = ValueIn(spec.environment, "SHELL");
    if (own.starts_with('/')) spec.programs.emplace_back(own);
    for (const char* usual : {"/bin/bash", "/bin/sh"}) {
      if (own != usual) spec.programs.emplace_back(usual);
    }
    return absl::OkStatus();
  }
  IMAGEFS_RETURN_IF_ERROR(CheckTexts(config.entrypoint, "Entrypoint"));
  IMAGEFS_RETURN_IF_ERROR(CheckTexts(config.cmd, "Cmd"));
  std::vector<std::string> words = config.entrypoint;
  if (options.entrypoint.has_value()) {
    words.clear();
    if (!options.entrypoint->empty()) words.push_back(*options.entrypoint);
  }
  if (!options.command.empty()) {
    words.insert(words.end(), options.command.begin(), options.command.end());
  } else if (!options.entrypoint.has_value()) {
    words.insert(words.end(), config.cmd.begin(), config.cmd.end());
  }
  if (words.empty() || words[0].empty()) {
    return absl::InvalidArgumentError(
        "the image names no command (neither Entrypoint nor Cmd); write one behind the image");
  }
  spec.programs = {words[0]};
  spec.arguments.assign(std::next(words.begin()), words.end());
  return absl::OkStatus();
}

// The lines of passwd or group that have at least `least` fields.
std::vector<std::vector<std::string_view>> Records(std::string_view text, size_t least) {
  std::vector<std::vector<std::string_view>> out;
  for (const std::string_view line : Split(text, '\n')) {
    std::vector<std::string_view> fields = Split(line, ':');
    if (fields.size() >= least && !fields[0].empty()) out.push_back(std::move(fields));
  }
  return out;
}

std::optional<uint32_t> ParseId(std::string_view text) {
  const std::optional<uint64_t> value = ParseDecimal(text);
  if (!value.has_value() || *value > kMaxId) return std::nullopt;
  return static_cast<uint32_t>(*value);
}

absl::Status Unknown(std::string_view what, std::string_view name, std::string_view file) {
  return absl::NotFoundError(StrCat("the image has no ", what, " \"", PrintableName(name, 60),
                                    "\" in ", file, "; give one by its number with --user"));
}

absl::StatusOr<gid_t> FindGroup(std::string_view name, std::string_view group) {
  for (const auto& fields : Records(group, 3)) {
    const std::optional<uint32_t> id = ParseId(fields[2]);
    if (fields[0] == name && id.has_value()) return *id;
  }
  const std::optional<uint32_t> id = ParseId(name);
  if (id.has_value()) return *id;
  return Unknown("group", name, "/etc/group");
}

// The groups that list the user as a member.
std::vector<gid_t> GroupsOf(std::string_view name, std::string_view group) {
  std::vector<gid_t> out;
  for (const auto& fields : Records(group, 4)) {
    const std::vector<std::string_view> members = Split(fields[3], ',');
    const std::optional<uint32_t> id = ParseId(fields[2]);
    if (id.has_value() && std::find(members.begin(), members.end(), name) != members.end()) {
      out.push_back(*id);
    }
  }
  return out;
}

}  // namespace

std::string ParseBind(const std::string& text, BindArg* out) {
  std::string_view rest = text;
  const auto take = [&rest](std::string_view suffix) {
    if (!rest.ends_with(suffix)) return false;
    rest.remove_suffix(suffix.size());
    return true;
  };
  out->read_only = take(":ro");
  if (!out->read_only) take(":rw");
  const size_t colon = rest.rfind(':');
  if (colon == std::string_view::npos || colon == 0) return "it is not SRC:DST or SRC:DST:ro";
  out->source = rest.substr(0, colon);
  out->destination = rest.substr(colon + 1);
  if (!out->destination.starts_with('/')) return "DST must be an absolute path in the image";
  out->destination = CleanPath(out->destination, "/");
  return out->destination == "/" ? "DST cannot be the root of the image" : "";
}

std::string_view ValueIn(const std::vector<std::string>& environment, std::string_view name) {
  for (const std::string_view entry : environment) {
    if (entry.size() > name.size() && entry.starts_with(name) && entry[name.size()] == '=') {
      return entry.substr(name.size() + 1);
    }
  }
  return "";
}

void SetIn(std::vector<std::string>* environment, std::string_view name, std::string_view value) {
  const std::string begin = StrCat(name, "=");
  environment->erase(
      std::remove_if(environment->begin(), environment->end(),
                     [&](const std::string& entry) { return entry.starts_with(begin); }),
      environment->end());
  environment->push_back(StrCat(begin, value));
}

absl::StatusOr<RunSpec> MakeRunSpec(const ImageConfig& config, const RunOptions& options,
                                    bool shell, bool terminal, EnvironmentRef own) {
  RunSpec spec;
  IMAGEFS_ASSIGN_OR_RETURN(spec.environment, Environment(config, options, terminal, own));
  IMAGEFS_RETURN_IF_ERROR(SetCommand(config, options, shell, spec));
  IMAGEFS_RETURN_IF_ERROR(CheckText(config.working_dir, "WorkingDir"));
  IMAGEFS_RETURN_IF_ERROR(CheckText(config.user, "User"));
  spec.directory =
      CleanPath(options.directory.empty() ? config.working_dir : options.directory, "/");
  spec.user = options.user.empty() ? config.user : options.user;
  spec.user_asked = !options.user.empty();
  return spec;
}

std::string PackRunSpec(const RunSpec& spec) {
  std::string out;
  const auto add = [&out](char kind, std::string_view text) {
    out.push_back(kind);
    out.append(text);
    out.push_back('\0');
  };
  for (const std::string& program : spec.programs) add(kProgram, program);
  for (const std::string& argument : spec.arguments) add(kArgument, argument);
  for (const std::string& variable : spec.environment) add(kVariable, variable);
  add(kDirectory, spec.directory);
  add(spec.user_asked ? kUserAsked : kUser, spec.user);
  return out;
}

absl::StatusOr<RunSpec> UnpackRunSpec(std::string_view packed) {
  const absl::Status bad = absl::InternalError("what to run did not arrive");
  RunSpec spec;
  if (!packed.ends_with('\0')) return bad;
  packed.remove_suffix(1);
  for (const std::string_view part : Split(packed, '\0')) {
    if (part.empty()) return bad;
    const std::string text(part.substr(1));
    switch (part[0]) {
      case kProgram:
        spec.programs.push_back(text);
        break;
      case kArgument:
        spec.arguments.push_back(text);
        break;
      case kVariable:
        spec.environment.push_back(text);
        break;
      case kDirectory:
        spec.directory = text;
        break;
      case kUser:
      case kUserAsked:
        spec.user = text;
        spec.user_asked = part[0] == kUserAsked;
        break;
      default:
        return bad;
    }
  }
  return spec.programs.empty() ? absl::StatusOr<RunSpec>(bad) : spec;
}

absl::StatusOr<UserIds> FindUser(std::string_view user, std::string_view passwd,
                                 std::string_view group) {
  const size_t colon = user.find(':');
  std::string_view name = user.substr(0, colon);
  const std::string_view group_name = colon == std::string_view::npos ? "" : user.substr(colon + 1);
  if (name.empty()) name = "0";
  const std::optional<uint32_t> number = ParseId(name);
  UserIds out;
  bool found = false;
  for (const auto& fields : Records(passwd, 4)) {
    const std::optional<uint32_t> uid = ParseId(fields[2]), gid = ParseId(fields[3]);
    if (!uid.has_value() || !gid.has_value() || (fields[0] != name && uid != number)) continue;
    out.uid = *uid;
    out.gid = *gid;
    if (group_name.empty()) out.groups = GroupsOf(fields[0], group);
    if (fields.size() > 5 && fields[5].starts_with('/')) out.home = fields[5];
    found = true;
    break;
  }
  if (!found && !number.has_value()) return Unknown("user", name, "/etc/passwd");
  if (!found) out.uid = *number;
  if (!group_name.empty()) {
    IMAGEFS_ASSIGN_OR_RETURN(out.gid, FindGroup(group_name, group));
  }
  return out;
}

absl::StatusOr<UserIds> FindUserIn(const Fd& root, std::string_view user) {
  IMAGEFS_ASSIGN_OR_RETURN(const std::string passwd,
                           ReadInRoot(root, "/etc/passwd", kMaxUserFileBytes));
  IMAGEFS_ASSIGN_OR_RETURN(const std::string group,
                           ReadInRoot(root, "/etc/group", kMaxUserFileBytes));
  return FindUser(user, passwd, group);
}

bool RunsNatively(const Platform& image, const Platform& host) {
  if (image.architecture == host.architecture || image.architecture.empty()) return true;
  return (host.architecture == "amd64" && image.architecture == "386") ||
         (host.architecture == "arm64" && image.architecture == "arm");
}

bool HandlesArchitecture(std::string_view entry, std::string_view architecture) {
  // Bytes 18 and 19 of an ELF header (e_machine), as hexadecimal digits. Source: elf(5).
  struct Machine {
    std::string_view architecture, digits;
  };
  constexpr Machine kMachines[] = {{"386", "0300"},   {"amd64", "3e00"},   {"arm", "2800"},
                                   {"arm64", "b700"}, {"loong64", "0201"}, {"ppc64le", "1500"},
                                   {"s390x", "0016"}, {"riscv64", "f300"}, {"mips64le", "0800"}};
  const auto* const machine =
      std::find_if(std::begin(kMachines), std::end(kMachines),
                   [&](const Machine& one) { return one.architecture == architecture; });
  if (machine == std::end(kMachines) || !entry.starts_with("enabled")) return false;
  for (std::string_view line : Split(entry, '\n')) {
    if (!ConsumePrefix(&line, "magic ")) continue;
    return line.starts_with("7f454c46") && line.size() >= 40 &&
           line.substr(36, 4) == machine->digits;
  }
  return false;
}

}  // namespace imagefs
