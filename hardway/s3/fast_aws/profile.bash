# shellcheck shell=bash disable=SC2004,SC2030,SC2031,SC2034,SC2154,SC2317
# The files of the AWS CLI, for the fast aws.

read_section() { # FILE SECTION: adds the section's keys to $conf; a nested key is parent.key
  local line section='' name text parent=''
  [[ -r $1 && -f $1 ]] || return 1
  local found=1
  while IFS= read -r line || [[ $line ]]; do
    line=${line%$'\r'}
    if [[ $line =~ ^\[[[:space:]]*([^]]*[^][:space:]])[[:space:]]*\] ]]; then
      section=${BASH_REMATCH[1]} parent=''
      [[ $section == "profile "* ]] && section="profile ${section##*[[:space:]\"\']}" && section=${section%[\"\']}
      [[ $section == "$2" ]] && found=0
    elif [[ $section == "$2" && $line =~ ^([[:space:]]*)([^[:space:]=\#\;][^=]*)=(.*)$ ]]; then
      name=${BASH_REMATCH[2]%%[[:space:]]*} text=${BASH_REMATCH[3]}
      text=${text#"${text%%[![:space:]]*}"} text=${text%"${text##*[![:space:]]}"}
      if [[ -z ${BASH_REMATCH[1]} ]]; then
        parent=$name
        conf[$name]=$text
      else
        conf[$parent.$name]=$text
      fi
    fi
  done <"$1"
  return $found
}
