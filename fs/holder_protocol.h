// How the daemon talks to imagefs-holder, the process that keeps descriptors while no daemon runs
// (fs/session_holder.h). A SOCK_SEQPACKET socket in the run directory, one message of this form a
// request and a reply; descriptors travel beside it (SCM_RIGHTS). Plain C types: the holder is
// built of nothing else.
#pragma once

#include <stdint.h>

namespace imagefs {

struct HolderMessage {
  enum Kind : uint32_t {
    kKeep = 1,  // with a descriptor; replaces one of that name. Answered by kDone or kFull
    kDrop = 2,  // answered by kDone, also where there is none of that name
    kList = 3,  // answered by one kDescriptor for each, then kDone
    kDone = 4,
    kFull = 5,
    kDescriptor = 6,
  };
  uint32_t kind = 0;
  char name[60] = {};  // ends in a zero
};

// The descriptor of the listening socket that the holder is started with.
inline constexpr int kHolderListener = 3;

}  // namespace imagefs
