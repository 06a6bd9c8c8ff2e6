// SPDX-License-Identifier: Apache-2.0
#include "cmd/mount_helper.h"

#include <string>
#include <vector>

#include "base/failure.h"
#include "base/text.h"
#include "cmd/call_credentials.h"
#include "cmd/mount_option_syntax.h"
#include "cmd/print.h"
#include "image/reference.h"

namespace imagefs {
namespace {

constexpr std::string_view kName = "mount.imagefs";
constexpr std::string_view kType = "imagefs";
// Exit statuses of mount(8).
constexpr int kExitUsage = 1;
constexpr int kExitInterrupted = 8;
constexpr int kExitFailed = 32;

constexpr char kUsage[] =
    "mount.imagefs REF DIR [-sfnv] [-N NAMESPACE] [-o WORDS] [-t TYPE]\n"
    "\n"
    "Mounts an image for mount(8): `mount -t imagefs docker.io/library/alpine:3 /mnt`, or a line "
    "of\n"
    "fstab. See mount.imagefs(8).\n";

CliExit UsageError(std::string_view message) {
  return CliExit{kExitUsage, "",
                 StrCat(kName, ": ", OneLine(Shortened(message)), "; see mount.imagefs(8)\n")};
}

// The arguments, not yet interpreted.
struct Arguments {
  std::vector<std::string> operands;
  std::vector<std::string> words;  // from every -o
  std::string type = std::string(kType);
  std::string other_namespace;
  std::string wrong;  // an unknown argument, or one without its value
  bool fake = false;
  bool sloppy = false;
  bool verbose = false;
  bool help = false;
  bool version = false;
};

// Parses one argument that starts with a dash: letters, the last of which may have a value after it
// or in the next argument. Returns the index of the last argument used.
int ParseLetters(int argc, const char* const* argv, int i, Arguments* out) {
  const std::string_view letters = std::string_view(argv[i]).substr(1);
  for (size_t k = 0; k < letters.size(); ++k) {
    const char letter = letters[k];
    if (letter == 'f') {
      out->fake = true;
    } else if (letter == 's') {
      out->sloppy = true;
    } else if (letter == 'v') {
      out->verbose = true;
    } else if (letter == 'n') {
      // Ignored: there is no mtab.
    } else if (letter == 'h') {
      out->help = true;
    } else if (letter == 'V') {
      out->version = true;
    } else if (letter == 'o' || letter == 't' || letter == 'N') {
      std::string value(letters.substr(k + 1));
      if (value.empty()) {
        if (i + 1 >= argc) {
          out->wrong = StrCat("-", letters.substr(k), " takes a value");
          return i;
        }
        value = argv[++i];
      }
      if (letter == 'o') {
        out->words.push_back(std::move(value));
      } else {
        (letter == 't' ? out->type : out->other_namespace) = std::move(value);
      }
      return i;
    } else {
      out->wrong = StrCat(Printable(argv[i]), " is not known");
      return i;
    }
  }
  return i;
}

Arguments SplitArguments(int argc, const char* const* argv) {
  Arguments out;
  bool operands_only = false;
  for (int i = 1; i < argc && out.wrong.empty(); ++i) {
    const std::string_view argument = argv[i];
    if (operands_only || argument.size() < 2 || argument[0] != '-') {
      out.operands.emplace_back(argument);
    } else if (argument == "--") {
      operands_only = true;
    } else if (argument == "--help" || argument == "--version") {
      (argument == "--help" ? out.help : out.version) = true;
    } else {
      i = ParseLetters(argc, argv, i, &out);
    }
  }
  return out;
}

}  // namespace

bool IsMountHelper(std::string_view program) {
  const size_t slash = program.rfind('/');
  return program.substr(slash == program.npos ? 0 : slash + 1) == kName;
}

std::variant<Command, CliExit> ParseMountHelper(int argc, const char* const* argv,
                                                std::string_view version) {
  for (int i = 1; i < argc; ++i) {
    if (!IsUtf8(argv[i])) return UsageError(StrCat("not UTF-8: ", Printable(argv[i], 60)));
  }
  const Arguments arguments = SplitArguments(argc, argv);
  if (!arguments.wrong.empty()) return UsageError(arguments.wrong);
  if (arguments.help) return CliExit{0, kUsage, ""};
  if (arguments.version) return CliExit{0, StrCat(kName, " ", version, "\n"), ""};
  if (arguments.operands.size() != 2) return UsageError("it takes an image and a directory");
  if (arguments.type != kType && !arguments.type.starts_with(StrCat(kType, "."))) {
    return UsageError(StrCat("type ", Printable(arguments.type), " is not imagefs"));
  }
  Command command;
  MountArgs& mount = command.args.emplace<MountArgs>();
  mount.for_mount8 = true;
  mount.quiet = !arguments.verbose;
  mount.reference = arguments.operands[0];
  mount.directory = arguments.operands[1];
  mount.name_space = arguments.other_namespace;
  for (const std::string& words : arguments.words) {
    const std::string problem =
        ApplyMount8Options(words, arguments.sloppy, &mount, &command.global);
    if (!problem.empty()) return UsageError(StrCat("-o: ", problem));
  }
  if (const std::string problem = CheckMount(mount); !problem.empty()) return UsageError(problem);
  if (const std::string problem = CheckCredentials(mount.image, {mount.reference});
      !problem.empty()) {
    return UsageError(problem);
  }
  if (const auto reference = Reference::Parse(mount.reference); !reference.ok()) {
    return UsageError(ToStd(reference.status().message()));
  }
  if (arguments.fake) return CliExit{0, "", ""};
  return command;
}

int MountHelperStatus(int verb_status) {
  if (verb_status == ExitStatusOf(FailureKind::kInterrupted)) return kExitInterrupted;
  return verb_status == 0 ? 0 : kExitFailed;
}

}  // namespace imagefs
