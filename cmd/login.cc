// SPDX-License-Identifier: Apache-2.0
#include "cmd/login.h"

#include <string>
#include <utility>
#include <vector>

#include "base/cancel.h"
#include "base/json.h"
#include "base/log.h"
#include "base/status.h"
#include "base/text.h"
#include "cmd/client_session.h"
#include "cmd/config.h"
#include "cmd/interrupt.h"
#include "cmd/password_prompt.h"
#include "cmd/print.h"
#include "cmd/source_options.h"
#include "fetch/credential_origin.h"
#include "fetch/login_check.h"
#include "fetch/login_store.h"

namespace imagefs {
namespace {

constexpr size_t kMaxUserBytes = 1024;
constexpr size_t kMaxPasswordBytes = 64 << 10;  // some registries have tokens for passwords

// Where logins are kept: everywhere that is looked at, or the file that the user named.
absl::StatusOr<CredentialOptions> PlacesOf(const std::string& auth_file) {
  CredentialOptions out;
  if (auth_file.empty()) return CredentialOptions::FromEnvironment();
  IMAGEFS_ASSIGN_OR_RETURN(out.auth_file, AbsolutePath(auth_file));
  return out;
}

class LoginVerb {
 public:
  LoginVerb(ClientSession& session, const LoginArgs& args) : session_(session), args_(args) {}

  absl::Status Run() {
    IMAGEFS_ASSIGN_OR_RETURN(name_, LoginName::Parse(args_.registry));
    IMAGEFS_ASSIGN_OR_RETURN(places_, PlacesOf(args_.auth_file));
    if (args_.get_login) return PrintUser();
    IMAGEFS_RETURN_IF_ERROR(Ask());
    IMAGEFS_ASSIGN_OR_RETURN(const bool checked, Check());
    IMAGEFS_ASSIGN_OR_RETURN(
        const LoginPlace place,
        StoreLogin(places_, name_, credential_.username, credential_.password));
    if (!checked) {
      Warn(StrCat(name_.host, " asked for no credentials, so these were stored unchecked"));
    }
    const CredentialOrigin used = FindCredentialOrigin(name_.Example(), places_);
    if (used.found.credential.Fingerprint() != credential_.Fingerprint()) {
      Warn(StrCat("the login was stored, but other credentials for ", name_.ToString(),
                  " come first: ", used.origin.empty() ? used.found.trouble : used.origin,
                  "; remove those"));
    }
    Print(place, checked);
    return absl::OkStatus();
  }

 private:
  void Warn(std::string_view text) {
    session_.out().Note(StrCat("imagefs: warning: ", OneLine(text), "\n"));
  }

  absl::Status PrintUser() {
    const CredentialOrigin found = FindCredentialOrigin(name_.Example(), places_);
    if (!found.found.trouble.empty()) return absl::FailedPreconditionError(found.found.trouble);
    if (found.found.credential.empty()) {
      return absl::NotFoundError(StrCat("there is no login for ", name_.ToString(),
                                        "; run `imagefs login ", name_.ToString(), "`"));
    }
    // A refresh token has no user.
    const std::string& user = found.found.credential.username;
    const std::string shown = user.empty() ? "<token>" : user;
    if (session_.json()) {
      JsonWriter json(/*pretty=*/true);
      json.BeginObject().Member("registry", name_.ToString()).Member("username", shown);
      json.Member("place", found.origin).EndObject();
      session_.out().Print(json.Take() + "\n");
    } else {
      session_.out().Print(StrCat(Printable(shown), "\n"));
    }
    return absl::OkStatus();
  }

  absl::Status Ask() {
    credential_.username = args_.username;
    if (credential_.username.empty()) {
      if (!CanAskUser()) return NoTerminal("a user name", "--username");
      IMAGEFS_ASSIGN_OR_RETURN(const Secret typed,
                               ReadAnswer(StrCat("User name at ", name_.ToString(), ": "),
                                          kMaxUserBytes, session_.interrupts()));
      credential_.username = typed.view();
      if (typed.empty()) return absl::InvalidArgumentError("the user name is empty");
    }
    if (credential_.username.find(':') != std::string::npos) {
      return absl::InvalidArgumentError("a user name has no colon; give the password separately");
    }
    if (!args_.password.empty()) {
      Warn(
          "other users of this machine can read a password on the command line; use "
          "--password-stdin");
      credential_.password = args_.password;
      return absl::OkStatus();
    }
    if (!args_.password_stdin && !CanAskUser()) return NoTerminal("a password", "--password-stdin");
    absl::StatusOr<Secret> typed = ReadPassword(
        StrCat("Password of ", Printable(credential_.username), " at ", name_.ToString(), ": "),
        kMaxPasswordBytes, session_.interrupts());
    if (!typed.ok()) return Annotate(typed.status(), "password");
    std::string_view password = typed->view();
    if (args_.password_stdin && password.ends_with('\r')) password.remove_suffix(1);
    if (password.empty()) return absl::InvalidArgumentError("the password is empty");
    credential_.password = password;
    return absl::OkStatus();
  }

  static absl::Status NoTerminal(std::string_view what, std::string_view option) {
    return absl::FailedPreconditionError(
        StrCat("there is no terminal to ask for ", what, "; use ", option));
  }

  absl::StatusOr<bool> Check() {
    IMAGEFS_ASSIGN_OR_RETURN(const Config config, LoadConfig(session_.global().config));
    SourceFactory::Options options =
        SourceOptionsOf(config, session_.global().ca_file, session_.version());
    options.max_attempts = 1;
    SourceFactory::Access access;
    access.credential = credential_;
    access.plain_http = args_.plain_http;
    access.verify_tls = !args_.skip_tls_verify;
    CancelSource cancel;
    const Interrupts::Scope scope(session_.interrupts(), [&cancel] { cancel.Cancel(); });
    return CheckLogin(options, name_.Example(), access, cancel.token());
  }

  void Print(const LoginPlace& place, bool checked) {
    if (session_.json()) {
      JsonWriter json(/*pretty=*/true);
      json.BeginObject().Member("registry", name_.ToString());
      json.Member("username", credential_.username).Member("place", place.ToString());
      json.Member("checked", checked).EndObject();
      session_.out().Print(json.Take() + "\n");
      return;
    }
    session_.out().Print(StrCat("logged in to ", name_.ToString(), " as ",
                                Printable(credential_.username), " (",
                                Printable(place.ToString(), 1000), ")\n"));
  }

  ClientSession& session_;
  const LoginArgs& args_;
  LoginName name_;
  CredentialOptions places_;
  Credential credential_;
};

void PrintLogout(ClientSession& session, const std::vector<std::string>& names,
                 std::string_view place) {
  if (session.json()) {
    JsonWriter json(/*pretty=*/true);
    json.BeginObject().Key("registries").BeginArray();
    for (const std::string& name : names) json.String(name);
    json.EndArray().Member("place", place).EndObject();
    session.out().Print(json.Take() + "\n");
    return;
  }
  for (const std::string& name : names) {
    session.out().Print(
        StrCat("logged out of ", Printable(name), " (", Printable(place, 1000), ")\n"));
  }
}

absl::Status LogOut(ClientSession& session, const LogoutArgs& args) {
  IMAGEFS_ASSIGN_OR_RETURN(const CredentialOptions places, PlacesOf(args.auth_file));
  if (args.all) {
    IMAGEFS_ASSIGN_OR_RETURN(const std::vector<std::string> names, EraseAllLogins(places));
    IMAGEFS_ASSIGN_OR_RETURN(const std::string file, LoginFile(places));
    PrintLogout(session, names, file);
    return absl::OkStatus();
  }
  IMAGEFS_ASSIGN_OR_RETURN(const LoginName name, LoginName::Parse(args.registry));
  const absl::StatusOr<LoginPlace> place = EraseLogin(places, name);
  if (!place.ok() && !absl::IsNotFound(place.status())) return place.status();
  const std::string left = FindCredentialOrigin(name.Example(), places).origin;
  if (!place.ok()) {
    if (left.empty()) return place.status();
    return absl::NotFoundError(
        StrCat(ToStd(place.status().message()), ", but there are credentials in ", left,
               "; remove those with the tool that stored them, or by --authfile"));
  }
  PrintLogout(session, {name.ToString()}, place->ToString());
  if (!left.empty()) {
    session.out().Note(StrCat("imagefs: warning: there are other credentials for ", name.ToString(),
                              ", which are used from now on: ", Printable(left, 1000), "\n"));
  }
  return absl::OkStatus();
}

}  // namespace

int RunLogin(const GlobalOptions& global, const LoginArgs& args, Paths paths,
             std::string_view version, Output& out) {
  SetLogLevel(global.log_level.empty() ? LogLevel::kOff : ParseLogLevel(global.log_level));
  ClientSession session(global, std::move(paths), version, out);
  return session.Finish(LoginVerb(session, args).Run());
}

int RunLogout(const GlobalOptions& global, const LogoutArgs& args, Paths paths,
              std::string_view version, Output& out) {
  SetLogLevel(global.log_level.empty() ? LogLevel::kOff : ParseLogLevel(global.log_level));
  ClientSession session(global, std::move(paths), version, out);
  return session.Finish(LogOut(session, args));
}

}  // namespace imagefs
