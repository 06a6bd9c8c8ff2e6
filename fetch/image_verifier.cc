// SPDX-License-Identifier: Apache-2.0
#include "fetch/image_verifier.h"

#include <limits.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <optional>

#include "absl/strings/cord.h"
#include "base/directory.h"
#include "base/fd.h"
#include "base/json.h"
#include "base/log.h"
#include "base/status.h"
#include "base/subprocess.h"
#include "base/text.h"
#include "base/thread_role.h"

namespace imagefs {
namespace {

constexpr std::string_view kPayload = "imagefs/image-denied";
constexpr std::string_view kMediaType = "application/vnd.oci.descriptor.v1+json";
constexpr int kRunners = 4;
constexpr size_t kMaxPrograms = 10;  // as containerd
constexpr size_t kMaxRemembered = 10'000;
constexpr size_t kMaxAnswerBytes = 16 << 10;
// Of the reason, in a message: gRPC carries 8 KiB of it at most.
constexpr size_t kMaxReasonBytes = 1000;
constexpr std::string_view kSetupRemedy =
    "correct it, or change bin_dir in [verify] of the configuration";

// What others may change proves nothing.
absl::Status CheckOwner(const std::string& path, const struct stat& st) {
  if (st.st_uid != 0 && st.st_uid != geteuid()) {
    return absl::FailedPreconditionError(
        StrCat(path, " belongs to user ", st.st_uid, ", not to root or to the daemon's user"));
  }
  if ((st.st_mode & (S_IWGRP | S_IWOTH)) != 0) {
    return absl::FailedPreconditionError(
        StrCat(path, " can be written by others; run: chmod go-w ", path));
  }
  return absl::OkStatus();
}

absl::Status CheckDirectory(const std::string& path) {
  IMAGEFS_ASSIGN_OR_RETURN(const struct stat st, StatPath(path));
  if (!S_ISDIR(st.st_mode)) return absl::FailedPreconditionError(StrCat(path, " is no directory"));
  return CheckOwner(path, st);
}

// Returns the program's path without symbolic links, or nullopt if it is none. It is what is run,
// so that a link that is changed meanwhile leads nowhere else.
absl::StatusOr<std::optional<std::string>> ProgramAt(const std::string& path) {
  char resolved[PATH_MAX];
  if (realpath(path.c_str(), resolved) == nullptr) return ErrnoStatus(errno, path);
  std::string program = resolved;
  IMAGEFS_ASSIGN_OR_RETURN(const struct stat st, StatPath(program));
  if (!S_ISREG(st.st_mode) || (st.st_mode & 0111) == 0) return std::optional<std::string>();
  IMAGEFS_RETURN_IF_ERROR(CheckOwner(program, st));
  IMAGEFS_RETURN_IF_ERROR(CheckDirectory(ParentOf(program)));
  return std::optional<std::string>(std::move(program));
}

std::string DescriptorOf(const ImageVerifier::Image& image) {
  JsonWriter json;
  json.BeginObject()
      .Member("mediaType", image.media_type)
      .Member("digest", image.digest.ToString())
      .Member("size", image.size)
      .EndObject();
  return json.Take();
}

// The reason that a program gives, for one line.
std::string ReasonOf(std::string_view output) {
  const std::string_view space = " \t\r\n";
  const size_t begin = std::min(output.find_first_not_of(space), output.size());
  output.remove_prefix(begin);
  output = output.substr(0, output.find_last_not_of(space) + 1);
  return Shortened(Printable(output, kMaxAnswerBytes), kMaxReasonBytes);
}

std::string KeyOf(const ImageVerifier::Image& image) {
  return StrCat(image.name, " ", image.digest.ToString());
}

}  // namespace

bool IsImageDenied(const absl::Status& status) {
  return status.GetPayload(ToAbsl(kPayload)).has_value();
}

absl::Status ImageDenied(std::string_view image, std::string_view cause, std::string_view remedy) {
  absl::Status status = absl::PermissionDeniedError(
      StrCat(image, " is denied by verification: ", cause, "; ", remedy));
  status.SetPayload(ToAbsl(kPayload), absl::Cord("1"));
  return status;
}

ImageVerifier::ImageVerifier(Options options)
    : options_(std::move(options)), executor_(ThreadRole::kVerifiers, kRunners) {}

FlightTicket ImageVerifier::Verify(Image image, absl::AnyInvocable<void(absl::Status)> done) {
  const std::string key = KeyOf(image);
  bool known = false;
  {
    absl::MutexLock lock(&mu_);
    known = allowed_before_.contains(key);
  }
  if (known) {
    done(absl::OkStatus());
    return FlightTicket();
  }
  FlightTable<bool>::Caller caller;
  caller.start = [this, image = std::move(image)](FlightTable<bool>::Context context) {
    executor_.Submit([this, image, context = std::move(context)] {
      const absl::Status status = RunAll(image, context.cancel);
      if (status.ok()) Remember(context.key);
      context.finish(status.ok() ? absl::StatusOr<bool>(true) : status);
    });
  };
  caller.done = [done = std::move(done)](const absl::StatusOr<bool>& allowed) mutable {
    done(allowed.status());
  };
  return flights_.Join(key, std::move(caller)).ticket;
}

void ImageVerifier::Remember(const std::string& key) {
  absl::MutexLock lock(&mu_);
  if (allowed_before_.size() >= kMaxRemembered) allowed_before_.clear();
  allowed_before_.insert(key);
}

absl::StatusOr<std::vector<std::string>> ImageVerifier::Programs() const {
  const std::string& directory = options_.directory;
  if (directory.empty()) {
    return absl::FailedPreconditionError("require is set in [verify], but bin_dir is not");
  }
  IMAGEFS_RETURN_IF_ERROR(CheckDirectory(directory));
  IMAGEFS_ASSIGN_OR_RETURN(std::vector<std::string> names, ListDir(directory));
  std::sort(names.begin(), names.end());
  std::vector<std::string> programs;
  for (const std::string& name : names) {
    const std::string path = StrCat(directory, "/", name);
    IMAGEFS_ASSIGN_OR_RETURN(std::optional<std::string> program, ProgramAt(path));
    if (program.has_value()) {
      programs.push_back(*std::move(program));
    } else {
      LogWarning("verify.no_program path=", PrintableName(path),
                 " cause=no file that can be executed");
    }
  }
  if (programs.empty()) {
    return absl::FailedPreconditionError(StrCat(directory, " has no program"));
  }
  // containerd ignores those beyond its limit. A check that is not made must not pass for one.
  if (programs.size() > kMaxPrograms) {
    return absl::FailedPreconditionError(StrCat(
        directory, " has ", programs.size(), " programs, and at most ", kMaxPrograms, " are run"));
  }
  return programs;
}

absl::Status ImageVerifier::RunAll(const Image& image, const CancelToken& cancel) {
  const auto verdict = [&]() -> absl::Status {
    const absl::StatusOr<std::vector<std::string>> programs = Programs();
    if (!programs.ok()) {
      return ImageDenied(image.name, ToStd(programs.status().message()), kSetupRemedy);
    }
    for (const std::string& program : *programs) {
      if (cancel.cancelled()) return absl::CancelledError("nobody waits for it");
      IMAGEFS_RETURN_IF_ERROR(RunOne(program, image, cancel));
    }
    return absl::OkStatus();
  };
  const absl::Status status = verdict();
  if (absl::IsCancelled(status)) return status;
  ++(status.ok() ? allowed_ : denied_);
  if (status.ok()) {
    LogInfo("verify.allowed image=", image.name, " digest=", image.digest.ToString());
  } else {
    LogWarning("verify.denied image=", image.name, " digest=", image.digest.ToString(),
               " cause=", status.message());
  }
  return status;
}

absl::Status ImageVerifier::RunOne(const std::string& program, const Image& image,
                                   const CancelToken& cancel) {
  const std::string input = DescriptorOf(image);
  ProgramCall call;
  call.argv = {program,
               "-name",
               image.name,
               "-digest",
               image.digest.ToString(),
               "-stdin-media-type",
               std::string(kMediaType)};
  call.input = input;
  call.timeout = absl::ToChronoSeconds(absl::Ceil(options_.timeout, absl::Seconds(1)));
  call.max_output_bytes = kMaxAnswerBytes;
  call.cut_output = true;  // by the contract
  call.cancel = cancel;
  ++runs_;
  const absl::StatusOr<ProgramResult> result = RunProgram(call);
  if (absl::IsCancelled(result.status())) return result.status();
  std::string cause = StrCat(image.digest.ToString(), ": ", program, ": ");
  if (!result.ok()) {
    StrAppend(&cause, ToStd(result.status().message()));
    return ImageDenied(image.name, cause, "see whether the program works, and timeout in [verify]");
  }
  if (result->succeeded()) return absl::OkStatus();
  const std::string reason = ReasonOf(result->output);
  StrAppend(&cause, result->HowItEnded(), reason.empty() ? "" : ": ", reason);
  return ImageDenied(image.name, cause,
                     "use an image that it allows, or change what it allows on this machine");
}

void ImageVerifier::AppendCounters(std::vector<std::pair<std::string, uint64_t>>& out) const {
  out.emplace_back("verify_allowed", allowed_.load());
  out.emplace_back("verify_denied", denied_.load());
  out.emplace_back("verify_program_runs", runs_.load());
}

}  // namespace imagefs
